// bu = u B_norm^T, and from it loc[k] = lambda loc[k-1] + bu[k] over each chunk from 0.
import { dense } from "./dense";
import { BLOCK_CHUNKS, scanPair } from "./scanPair";

/**
 * loc      [tokens, groups, re x 4 | im x 4] float32, written
 * last     [min(2, groups), re x 4 | im x 4] float32: working memory
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
  // Block by block, so that u is read while it is in cache, however many tokens there are.
  for (let t = 0; t < tokens; k0 = 0) {
    const rows = min(tokens - t, BLOCK_CHUNKS * chunk - k0);
    for (let g: usize = 0; g < stride; g += 64) {
      const second: usize = g + 32 < stride ? 32 : 0;
      dense(loc + g, stride, u, uStride, B + g * <usize>dModel, 0, 0, rows, dModel, <i32>(second + 32) >> 2);
      for (let from = 0, k = k0; from < rows; k = 0) {
        const length = min(rows - from, chunk - k);
        for (let i: usize = 0; i < second + 32; i += 16) {
          v128.store(last + i, k > 0 ? v128.load(stateLoc + g + i) : f32x4.splat(0));
        }
        scanPair(false, second, loc + g + <usize>from * stride, stride, lambda + g, last, 0, 0, length);
        from += length;
      }
    }
    t += rows;
    loc += <usize>rows * stride;
    u += <usize>rows * uStride;
  }
}
