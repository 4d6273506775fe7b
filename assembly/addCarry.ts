// h = loc + lambda^(k+1) carry, in place.
import { partIm, partRe } from "./simd";

/**
 * h       [tokens, groups, re x 4 | im x 4] float32: loc on entry, h on return
 * powers  [chunk, groups, re x 4 | im x 4] float32: lambda^(k+1)
 * carries [chunks touched, groups, re x 4 | im x 4] float32: the carry into each chunk
 * real    as in carryScan
 */
export function addCarry(
  h: usize, powers: usize, carries: usize,
  tokens: i32, k0: i32, chunk: i32, groups: i32, real: bool,
): void {
  const stride = <usize>groups << 5;
  let k = k0;
  for (let t = 0; t < tokens; t++) {
    const power = powers + <usize>k * stride;
    for (let g: usize = 0; g < stride; g += 32) {
      const pr = v128.load(power + g), pi = v128.load(power + g, 16);
      const cr = v128.load(carries + g), ci = v128.load(carries + g, 16);
      v128.store(h + g, partRe(real, pr, pi, cr, ci, v128.load(h + g)));
      v128.store(h + g, partIm(real, pr, pi, cr, ci, v128.load(h + g, 16)), 16);
    }
    h += stride;
    if (++k == chunk) {
      k = 0;
      carries += stride;
    }
  }
}
