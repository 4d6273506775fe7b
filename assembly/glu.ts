// y = x * sigmoid(gate), or x * gate * sigmoid(gate): SiLU.
import { activate } from "./activate";

/** y, x, gate [count] float32, count a multiple of 4; may be the same memory */
export function glu(y: usize, x: usize, gate: usize, silu: bool, count: i32): void {
  if (silu) activate(false, true, y, x, gate, count);
  else activate(false, false, y, x, gate, count);
}
