/** Checkpoints changed by hand, and what is thrown at once. */
import { expect } from "vitest";
import type { Tensor } from "../../src/io/safetensors.js";

export type Tensors = ReadonlyMap<string, Tensor>;

export const f32 = (shape: number[], fill = 0): Tensor => {
  return { dtype: "F32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(fill) };
};

/** What a call throws; fails if it does not. */
export function thrownBy(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  return expect.fail("nothing was thrown");
}
