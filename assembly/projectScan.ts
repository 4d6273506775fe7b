// bu = u B_norm^T and, in the same registers, loc[k] = lambda loc[k-1] + bu[k] over each chunk from 0.
import { scanChunk } from "./scanChunk";

/**
 * loc      [tokens, groups, re x 4 | im x 4] float32, written
 * last     [re x 4 | im x 4] float32: working memory
 * u        [tokens, dModel] float32, rows `uStride` bytes apart
 * B        [groups, dModel, re x 4 | im x 4] float32: B_norm in panels of four states
 * lambda   [groups, re x 4 | im x 4] float32
 * stateLoc [groups, re x 4 | im x 4] float32: loc before the first token, read if k0 > 0
 * k0       tokens of the first chunk that are already in stateLoc; every later chunk has `chunk` tokens
 */
export function projectScan(
  loc: usize, last: usize, u: usize, uStride: usize, B: usize, lambda: usize, stateLoc: usize,
  tokens: i32, k0: i32, chunk: i32, dModel: i32, groups: i32,
): void {
  const stride = <usize>groups << 5;
  const uBytes = <usize>dModel << 2;
  const panelBytes = uBytes << 3;
  const zero = f32x4.splat(0);
  // Chunk by chunk, so that u is read while it is in cache, however many tokens there are.
  for (let t = 0, k = k0; t < tokens; k = 0) {
    const length = min(tokens - t, chunk - k);
    for (let g: usize = 0; g < <usize>groups; g++) {
      const at = g << 5;
      v128.store(last, k > 0 ? v128.load(stateLoc + at) : zero);
      v128.store(last, k > 0 ? v128.load(stateLoc + at, 16) : zero, 16);
      scanChunk(false, loc + at, stride, u, uStride, uBytes, B + g * panelBytes, lambda + at, last, 0, 0, length);
    }
    t += length;
    loc += <usize>length * stride;
    u += <usize>length * uStride;
  }
}
