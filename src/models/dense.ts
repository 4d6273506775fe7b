/** Dense layers whose kernel is (in, out), as Flax and Keras keep it. */
import type { DenseStage } from "../program.js";
import type { Size, TensorReader } from "./tensors.js";

/** Widths that are not given come from the bias and the kernel. */
export function denseStage(
  reader: TensorReader,
  name: string,
  src: number,
  dst: number,
  inSize: Size,
  outSize: Size,
): DenseStage {
  const inWidth = inSize ?? reader.size(`${name}.kernel`, 0);
  const outWidth = outSize ?? reader.size(`${name}.bias`, 0) ?? reader.size(`${name}.kernel`, 1);
  const kernel = reader.take(`${name}.kernel`, [inWidth, outWidth]);
  const bias = reader.take(`${name}.bias`, [outWidth]);
  return { kind: "dense", name, src, dst, inWidth: inWidth ?? 0, outWidth: outWidth ?? 0, kernel, bias };
}
