// h = loc + lambda^(k+1) carry, with bu, loc and carry as in projectScan and carryScan, where the first carry is known.
import { advanceCarry, roundCarry } from "./carry";
import { dense } from "./dense";
import { BLOCK_CHUNKS, scanPair } from "./scanPair";

/**
 * `projectScan`, `carryScan` and `addCarry` in one pass: the same operations on the same numbers, so the same bits.
 *
 * h        [tokens, groups, re x 4 | im x 4] float32, written
 * rounded  [min(2, groups), re x 4 | im x 4] float32: working memory
 * carry    [groups, re x 4 | im x 4] float64, advanced in place past every chunk that ends here
 * stateLoc [groups, re x 4 | im x 4] float32, advanced in place: loc before the first token if k0 > 0; then loc of the last
 *          token if its chunk is unfinished, else 0
 * lambdaT  [groups, re x 4 | im x 4] float64: lambda^chunk
 * powers   [chunk, groups, re x 4 | im x 4] float32: lambda^(k+1), the first of which is lambda
 * The rest as in projectScan.
 */
export function projectHidden(
  h: usize, rounded: usize, carry: usize, stateLoc: usize, u: usize, uStride: usize, B: usize, lambdaT: usize, powers: usize,
  tokens: i32, k0: i32, chunk: i32, dModel: i32, groups: i32,
): void {
  const stride = <usize>groups << 5;
  for (let g: usize = 0; g < stride; g += 64) {
    const second: usize = g + 32 < stride ? 32 : 0;
    const panels = B + g * <usize>dModel;
    if (k0 == 0) zero(stateLoc + g, second);
    let k = k0;
    for (let t = 0, projected = 0; t < tokens; ) {
      const at = h + g + <usize>t * stride;
      if (t == projected) {
        const rows = min(tokens - t, BLOCK_CHUNKS * chunk - k);
        dense(at, stride, u + <usize>t * uStride, uStride, panels, 0, 0, rows, dModel, <i32>(second + 32) >> 2);
        projected += rows;
      }
      const length = min(tokens - t, chunk - k);
      for (let i: usize = 0; i <= second; i += 32) roundCarry(rounded + i, carry + 2 * (g + i));
      scanPair(true, second, at, stride, powers + g, stateLoc + g, powers + <usize>k * stride + g, rounded, length);
      t += length;
      k += length;
      if (k == chunk) {
        for (let i: usize = g; i <= g + second; i += 32) {
          advanceCarry(carry + 2 * i, stateLoc + i, lambdaT + 2 * i, false);
        }
        zero(stateLoc + g, second);
        k = 0;
      }
    }
  }
}

/** A group's float32 values, and those of the one `second` bytes on. */
// @ts-ignore: decorator
@inline
function zero(at: usize, second: usize): void {
  for (let i: usize = 0; i < second + 32; i += 16) v128.store(at + i, f32x4.splat(0));
}
