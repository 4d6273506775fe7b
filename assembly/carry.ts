// The float64 part of the scan, two states at a time, every operation rounded: what all scans share.

/** Rounds the carry of a group of four states, [re x 4 | im x 4] float64, to float32. */
// @ts-ignore: decorator
@inline
export function roundCarry(out: usize, carry: usize): void {
  roundPair(out, carry);
  roundPair(out + 8, carry + 16);
}

/**
 * carry = lambdaT carry + loc for a group of four states; carry and lambdaT [re x 4 | im x 4] float64, loc float32. If `real`,
 * each part is a state by itself.
 */
// @ts-ignore: decorator
@inline
export function advanceCarry(carry: usize, loc: usize, lambdaT: usize, real: bool): void {
  advancePair(carry, loc, lambdaT, real);
  advancePair(carry + 16, loc + 8, lambdaT + 16, real);
}

/** Rounds two states' carry, re at c and im 32 bytes on, to float32: re at out, im 16 bytes on. */
// @ts-ignore: decorator
@inline
function roundPair(out: usize, c: usize): void {
  v128.store64_lane(out, f32x4.demote_f64x2_zero(v128.load(c)), 0);
  v128.store64_lane(out, f32x4.demote_f64x2_zero(v128.load(c, 32)), 0, 16);
}

/** carry = lambdaT carry + loc for two states, in float64, each operation rounded. */
// @ts-ignore: decorator
@inline
function advancePair(c: usize, loc: usize, lambdaT: usize, real: bool): void {
  const cr = v128.load(c);
  const ci = v128.load(c, 32);
  const pr = v128.load(lambdaT);
  const pi = v128.load(lambdaT, 32);
  let re = f64x2.mul(pr, cr);
  let im = f64x2.mul(real ? pi : pr, ci);
  if (!real) {
    re = f64x2.sub(re, f64x2.mul(pi, ci));
    im = f64x2.add(im, f64x2.mul(pi, cr));
  }
  v128.store(c, f64x2.add(re, f64x2.promote_low_f32x4(v128.load64_zero(loc))));
  v128.store(c, f64x2.add(im, f64x2.promote_low_f32x4(v128.load64_zero(loc, 16))), 32);
}
