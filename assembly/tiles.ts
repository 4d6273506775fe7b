// y = Re(C h) + D * u of a row: `projectHidden` and `output` in turns.
import { output } from "./output";
import { projectHidden } from "./projectHidden";

/**
 * A chunk at a time, for u, h and y to be in L1; and all of them in one call: the host's own code and data are out of cache whenever
 * a kernel returns, and take longer to come back than to run.
 *
 * y      [tokens, outWidth] float32, or 0: h alone is wanted, of all tokens
 * h      [min(chunk, tokens), groups, re x 4 | im x 4] float32, or without y [tokens, ...], written
 * powers [chunk, groups, re x 4 | im x 4] float32: lambda^(k+1), the first of which is lambda
 * The rest as in `projectHidden` and `output`.
 */
export function tiles(
  y: usize, h: usize, rounded: usize, carry: usize, stateLoc: usize, u: usize, uStride: usize, B: usize,
  lambdaT: usize, powers: usize, C: usize, D: usize,
  tokens: i32, k0: i32, chunk: i32, dModel: i32, groups: i32, outWidth: i32,
): void {
  const yStride = <usize>outWidth << 2;
  while (tokens > 0) {
    const length = y ? min(tokens, chunk - k0) : tokens;
    projectHidden(h, rounded, carry, stateLoc, u, uStride, B, lambdaT, powers, length, k0, chunk, dModel, groups);
    if (y) output(y, yStride, h, C, D, u, uStride, length, groups << 3, outWidth);
    y += <usize>length * yStride;
    u += <usize>length * uStride;
    tokens -= length;
    k0 = 0;
  }
}
