// y = x * sigmoid(gate).
import { sigmoid } from "./simd";

/** y, x, gate [count] float32, count a multiple of 4; may be the same memory */
export function glu(y: usize, x: usize, gate: usize, count: i32): void {
  const bytes = <usize>count << 2;
  for (let i: usize = 0; i < bytes; i += 16) {
    v128.store(y + i, f32x4.mul(v128.load(x + i), sigmoid(v128.load(gate + i))));
  }
}
