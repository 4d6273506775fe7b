/** lrnnx, the LRU library for PyTorch: names of its state dicts. */
import { LinrecError } from "../errors.js";
import { type DenseStage, type LayerNormStage, lruStages, type Network } from "../program.js";
import type { Architecture } from "./architecture.js";
import { checkLruParams, programOf, takeLru, tensorNames } from "./lru.js";
import type { Size, TensorReader } from "./tensors.js";

const own = ["nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D"];

/** One layer, its eight tensors under any one prefix. */
export const lrnnxLru: Architecture = {
  name: "lrnnx/lru",
  options: [],

  infer(tensors) {
    const prefixes = prefixesOf(tensors.keys());
    const exact =
      prefixes.length === 1 &&
      tensors.size === own.length &&
      own.every((name) => tensors.has(prefixes[0] + name));
    return exact ? {} : undefined;
  },

  build(reader) {
    const prefixes = prefixesOf(reader.names());
    if (prefixes.length > 1) {
      const list = prefixes.map((prefix) => `"${prefix}"`).join(", ");
      throw new LinrecError(
        "unknown-model",
        `lrnnx/lru is one layer, and this checkpoint has several, under ${list}. Read one with toLruParams(tensors, prefix), ` +
          "or both directions of a bidirectional layer with engine.bidirectional.",
      );
    }
    const prefix = prefixes[0] ?? "";
    const program = programOf(takeLru(reader, prefix), prefix.slice(0, -1) || "lru");
    reader.finish("lrnnx/lru");
    for (const stage of lruStages(program)) checkLruParams(stage.params, prefix);
    return program;
  },
};

/** What stands before an LRU's tensor names, each once: "" or text that ends in "." or "/". */
function prefixesOf(names: Iterable<string>): string[] {
  const prefixes = new Set<string>();
  for (const name of names) {
    const start = Math.max(name.lastIndexOf("."), name.lastIndexOf("/")) + 1;
    if (tensorNames.includes(name.slice(start))) prefixes.add(name.slice(0, start));
  }
  return [...prefixes];
}

/** Stages while they are being put together. */
export type Stages = Network["stages"][number][];

const NORM_EPSILON = 1e-5;

/** The prefixes of numbered modules, "blocks.0." and so on, up to the first number that is missing. */
export function listed(reader: TensorReader, prefix: string): string[] {
  const names = reader.names();
  const found: string[] = [];
  for (;;) {
    const next = `${prefix}${found.length}.`;
    if (!names.some((name) => name.startsWith(next))) return found;
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
