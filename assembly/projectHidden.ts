// h = loc + lambda^(k+1) carry, with bu, loc and carry as in projectScan and carryScan, where the first carry is known.
import { advanceCarry, roundCarry } from "./carry";
import { scanChunk } from "./scanChunk";

/**
 * `projectScan`, `carryScan` and `addCarry` in one pass, h never leaving the registers as loc: the same operations on the
 * same numbers, so the same bits.
 *
 * h        [tokens, groups, re x 4 | im x 4] float32, written
 * rounded  [re x 4 | im x 4] float32: working memory
 * carry    [groups, re x 4 | im x 4] float64, advanced in place past every chunk that ends here
 * stateLoc [groups, re x 4 | im x 4] float32, advanced in place: loc before the first token if k0 > 0; then loc of the last
 *          token if its chunk is unfinished, else 0
 * lambdaT  [groups, re x 4 | im x 4] float64: lambda^chunk
 * powers   [chunk, groups, re x 4 | im x 4] float32: lambda^(k+1)
 * The rest as in projectScan.
 */
export function projectHidden(
  h: usize, rounded: usize, carry: usize, stateLoc: usize, u: usize, uStride: usize, B: usize, lambda: usize,
  lambdaT: usize, powers: usize, tokens: i32, k0: i32, chunk: i32, dModel: i32, groups: i32,
): void {
  const stride = <usize>groups << 5;
  const uBytes = <usize>dModel << 2;
  for (let g = 0; g < groups; g++) {
    if (k0 == 0) zero(stateLoc);
    let k = k0;
    for (let t = 0; t < tokens; ) {
      const length = min(tokens - t, chunk - k);
      roundCarry(rounded, carry);
      scanChunk(
        true, h + <usize>t * stride, stride, u + <usize>t * uStride, uStride, uBytes, B, lambda, stateLoc,
        powers + <usize>k * stride, rounded, length,
      );
      t += length;
      k += length;
      if (k == chunk) {
        advanceCarry(carry, stateLoc, lambdaT, false);
        zero(stateLoc);
        k = 0;
      }
    }
    h += 32;
    carry += 64;
    stateLoc += 32;
    B += uBytes << 3;
    lambda += 32;
    lambdaT += 64;
    powers += 32;
  }
}

/** A group's float32 values. */
// @ts-ignore: decorator
@inline
function zero(at: usize): void {
  v128.store(at, f32x4.splat(0));
  v128.store(at, f32x4.splat(0), 16);
}
