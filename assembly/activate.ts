// The loop behind `gelu` in its tanh form and `glu`: y = x * sigmoid(z) or x * z * sigmoid(z), with z made of x or given.
import { C3, C4, C5, C6, C7, expWith, HIGH, LN2_HIGH, LN2_LOW, LOG2E, LOW, madd, ROUND } from "./simd";

/** y, x, gate [count] float32, count a multiple of 4; may be the same memory. gelu has no gate, glu may be silu. */
// @ts-ignore: decorator
@inline
export function activate(isGelu: bool, silu: bool, y: usize, x: usize, gate: usize, count: i32): void {
  // V8 makes a vector constant anew wherever it is used, in about three instructions: they took twice the time of all
  // else in this loop. Made from a 1 that no compiler can see, they are values, and stay.
  const one = f32x4.splat(<f32>min(count, 1));
  const low = constant(LOW, one), high = constant(HIGH, one), log2e = constant(LOG2E, one), round = constant(ROUND, one);
  const ln2High = constant(LN2_HIGH, one), ln2Low = constant(LN2_LOW, one), half = constant(0.5, one);
  const c7 = constant(C7, one), c6 = constant(C6, one), c5 = constant(C5, one), c4 = constant(C4, one), c3 = constant(C3, one);
  const cube = constant(-0.044715 * 1.5957691216057308, one), line = constant(-1.5957691216057308, one);
  const zero = f32x4.sub(one, one);
  const bytes = <usize>count << 2;
  for (let i: usize = 0; i < bytes; i += 16) {
    const v = v128.load(x + i);
    // -z: sigmoid(z) = 1 / (1 + exp(-z))
    const z = isGelu ? f32x4.mul(v, madd(f32x4.mul(v, v), cube, line)) : f32x4.sub(zero, v128.load(gate + i));
    const e = expWith(z, low, high, log2e, round, ln2High, ln2Low, c7, c6, c5, c4, c3, half, one);
    v128.store(y + i, f32x4.div(silu ? f32x4.mul(v, v128.load(gate + i)) : v, f32x4.add(one, e)));
  }
}

// @ts-ignore: decorator
@inline
export function constant(value: f32, one: v128): v128 {
  return f32x4.mul(one, f32x4.splat(value));
}
