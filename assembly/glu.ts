// y = x * sigmoid(gate).
import { activate } from "./activate";

/** y, x, gate [count] float32, count a multiple of 4; may be the same memory */
export function glu(y: usize, x: usize, gate: usize, count: i32): void {
  activate(false, y, x, gate, count);
}
