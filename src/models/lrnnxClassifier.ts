/** lrnnx's Classifier around LRU layers: post-norm residual blocks with pooling between them, and a linear head. */
import { LinrecError } from "../errors.js";
import type { Network } from "../program.js";
import { type Architecture, finished, type Options, oneOf } from "./architecture.js";
import { layerNorm, linear, listed, type Stages } from "./lrnnx.js";
import { takeLru } from "./lru.js";

/**
 * x [batch, seqLen, features], or token ids where there is an embedding -> y [batch, classes]; with `embedded`, x are rows of
 * that embedding's table, or what else has their width, and the table is only kept. A block is LayerNorm(x + LRU(x)), then (the last one too) its
 * `intermediatePooling` over windows of its `poolingFactor` tokens: their "mean" or "max", or the first of each ("stride").
 * Mean and maximum leave out a last window that is not full. Of a row that is shorter than seqLen (`lengths`) the window
 * that it ends in counts, as in lrnnx: its missing tokens are zeros to the mean, and nothing to the maximum.
 */
export const lrnnxClassifier: Architecture = {
  name: "lrnnx/classifier",
  options: ["pooling", "intermediatePooling", "poolingFactor", "embedded"],
  rules: { pooling: oneOf("last", "mean", "max") },
  infer: (tensors) => (tensors.has("final_block.lrnn.nu_log") ? {} : undefined),

  build(reader, options): Network {
    const width = reader.size("final_block.lrnn.D", 0);
    const stages: Stages = [];
    // 0 x, 1 the stream, 2 work, 3 what is pooled, 4 y, 5 embeddings of another width
    const slots = [0, width ?? 0, width ?? 0, width ?? 0, 0, 0];
    const table = "embedding.token_embedding.weight";
    const [hasTable, projects] = [reader.has(table), reader.has("embed_proj.weight")];
    const ids = hasTable && !options.embedded;
    const [vocabulary, own] = [reader.size(table, 0), projects ? reader.size(table, 1) : width];
    const values = hasTable ? reader.take(table, [vocabulary, own]) : new Float32Array();
    // What the projection reads: embeddings, or x.
    const from = ids ? 5 : 0;
    slots[from] = own ?? 0;
    if (ids) {
      slots[0] = 1;
      const embedding = { width: own ?? 0, vocabulary: vocabulary ?? 0, table: values };
      stages.push({ kind: "embedding", name: table, src: 0, dst: projects ? 5 : 1, ...embedding });
    }
    if (projects || !hasTable) {
      const name = hasTable ? "embed_proj" : "input_proj";
      const input = linear(reader, name, from, 1, hasTable ? own : undefined, width);
      slots[from] = input.inWidth;
      stages.push(input);
    }
    const prefixes = [...listed(reader, "blocks."), "final_block."];
    const windows = perBlock(options, prefixes.length);
    for (const [i, prefix] of prefixes.entries()) {
      const h = width ?? 0;
      const params = takeLru(reader, `${prefix}lrnn.`, width);
      const src = stages.length === 0 ? 0 : 1; // embeddings of the stream's width are the stream
      const lru = { name: `${prefix}lrnn`, src, dst: 2, dModel: h, dState: params.nuLog.length, params };
      stages.push(
        { kind: "lru", ...lru },
        { kind: "add", name: `${prefix}skip`, src: 2, other: src, dst: 1, width: h },
        layerNorm(reader, `${prefix}norm`, 1, width),
      );
      const { mode, factor } = windows[i] as (typeof windows)[number];
      if (mode === "none" || factor === 1) continue;
      stages.push({ kind: "window", name: `${prefix}pool`, src: 1, dst: 1, width: h, mode, factor });
    }
    const mode = options.pooling as "last" | "mean" | "max";
    const head = linear(reader, "final_block.output_proj", 3, 4, width, undefined);
    slots[4] = head.outWidth;
    stages.push({ kind: "pool", name: "final_block.pool", src: 1, dst: 3, width: width ?? 0, mode }, head);
    return finished(reader, { architecture: this.name, slots, stages, output: 4 });
  },
};

/** The windows after each block: one setting for all, or a list with one for each. */
function perBlock({ intermediatePooling, poolingFactor }: Options, blocks: number) {
  const spread = <T>(name: string, value: T | readonly T[]): readonly T[] => {
    if (!Array.isArray(value)) return new Array<T>(blocks).fill(value as T);
    if (value.length === blocks) return value;
    throw new LinrecError(
      "invalid-argument",
      `${name} has ${value.length} entries; this model has ${blocks} blocks. Give one for each, or one value for all.`,
    );
  };
  const factors = spread("poolingFactor", poolingFactor);
  return spread("intermediatePooling", intermediatePooling).map((mode, i) => {
    return { mode, factor: factors[i] as number };
  });
}
