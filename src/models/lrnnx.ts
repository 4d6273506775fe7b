/** lrnnx, the LRU library for PyTorch: names of its state dicts. */
import type { DenseStage, LayerNormStage, Network } from "../program.js";
import type { Size, TensorReader } from "./tensors.js";

/** Stages while they are being put together. */
export type Stages = Network["stages"][number][];

const NORM_EPSILON = 1e-5;

/** The prefixes of numbered modules, "blocks.0." and so on, up to the first number that is missing. */
export function listed(reader: TensorReader, prefix: string): string[] {
  const known = new Set(reader.names().map((name) => name.slice(0, name.indexOf(".", prefix.length) + 1)));
  const found: string[] = [];
  for (;;) {
    const next = `${prefix}${found.length}.`;
    if (!known.has(next)) return found;
    found.push(next);
  }
}

/** In place. */
export function layerNorm(reader: TensorReader, name: string, slot: number, width: Size): LayerNormStage {
  const [scale, bias] = [reader.take(`${name}.weight`, [width]), reader.take(`${name}.bias`, [width])];
  return {
    kind: "layerNorm",
    name,
    src: slot,
    dst: slot,
    width: width ?? 0,
    scale,
    bias,
    epsilon: NORM_EPSILON,
  };
}

/** PyTorch's Linear keeps its weight as (out, in). Sizes that are not given come from it. */
export function linear(
  reader: TensorReader,
  name: string,
  src: number,
  dst: number,
  inSize: Size,
  outSize: Size,
): DenseStage {
  const [inWidth, outWidth] = [
    inSize ?? reader.size(`${name}.weight`, 1),
    outSize ?? reader.size(`${name}.weight`, 0),
  ];
  const kernel = reader.take(`${name}.weight`, [outWidth, inWidth], [1, 0]);
  const bias = reader.take(`${name}.bias`, [outWidth]);
  return { kind: "dense", name, src, dst, inWidth: inWidth ?? 0, outWidth: outWidth ?? 0, kernel, bias };
}
