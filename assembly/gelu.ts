// y = x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which is gelu in its tanh form.
import { activate } from "./activate";

/** y, x [count] float32, count a multiple of 4; may be the same memory */
export function gelu(y: usize, x: usize, count: i32): void {
  activate(true, y, x, 0, count);
}
