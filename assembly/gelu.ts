// y = x * Phi(x): by erf, or in the tanh form x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
import { activate, constant } from "./activate";
import { C3, C4, C5, C6, C7, expWith, HIGH, LN2_HIGH, LN2_LOW, LOG2E, LOW, madd, ROUND } from "./simd";

/** y, x [count] float32, count a multiple of 4; may be the same memory */
export function gelu(y: usize, x: usize, exact: bool, count: i32): void {
  if (exact) byErf(y, x, count);
  else activate(true, false, y, x, 0, count);
}

/**
 * Phi(-|x|) = erfc(|x| / sqrt(2)) / 2 = exp(-x^2 / 2) t S(t), t = 1 / (1 + P |x|), with S fitted for the least relative error
 * on 0 <= |x| <= 13: it is 1.3e-7, or 5e-8 of Phi. With rounding, x Phi(x) is within 2^-23 max(1, |x|) of the true one.
 */
// @ts-ignore: decorator
@inline
function byErf(y: usize, x: usize, count: i32): void {
  const one = f32x4.splat(<f32>min(count, 1)); // as in `activate`
  const low = constant(LOW, one), high = constant(HIGH, one), log2e = constant(LOG2E, one), round = constant(ROUND, one);
  const ln2High = constant(LN2_HIGH, one), ln2Low = constant(LN2_LOW, one), half = constant(0.5, one), slope = constant(P, one);
  const c7 = constant(C7, one), c6 = constant(C6, one), c5 = constant(C5, one), c4 = constant(C4, one), c3 = constant(C3, one);
  const s7 = constant(-0.07124482840299606, one), s6 = constant(0.25137490034103394, one), s5 = constant(-0.20815405249595642, one);
  const s4 = constant(0.231429323554039, one), s3 = constant(0.010128508321940899, one), s2 = constant(0.10373284667730331, one);
  const s1 = constant(0.09021434187889099, one), s0 = constant(0.09251900762319565, one);
  const bytes = <usize>count << 2;
  for (let i: usize = 0; i < bytes; i += 16) {
    const v = v128.load(x + i);
    const t = f32x4.div(one, madd(f32x4.abs(v), slope, one));
    let s = madd(s7, t, s6);
    s = madd(s, t, s5);
    s = madd(s, t, s4);
    s = madd(s, t, s3);
    s = madd(s, t, s2);
    s = madd(s, t, s1);
    s = madd(s, t, s0);
    const z = f32x4.mul(f32x4.mul(v, v), f32x4.neg(half));
    const e = expWith(z, low, high, log2e, round, ln2High, ln2Low, c7, c6, c5, c4, c3, half, one);
    const below = f32x4.mul(f32x4.mul(s, t), e);
    const phi = v128.bitselect(below, f32x4.sub(one, below), i32x4.shr_s(v, 31));
    v128.store(y + i, f32x4.mul(v, phi));
  }
}

const P: f32 = 0.2316;
