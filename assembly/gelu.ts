// y = x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which is gelu in its tanh form.
import { madd, sigmoid } from "./simd";

/** y, x [count] float32, count a multiple of 4; may be the same memory */
export function gelu(y: usize, x: usize, count: i32): void {
  const bytes = <usize>count << 2;
  for (let i: usize = 0; i < bytes; i += 16) {
    const v = v128.load(x + i);
    const cubic = f32x4.mul(f32x4.mul(v, v), f32x4.splat(0.044715));
    const z = f32x4.mul(madd(cubic, v, v), f32x4.splat(1.5957691216057308));
    v128.store(y + i, f32x4.mul(v, sigmoid(z)));
  }
}
