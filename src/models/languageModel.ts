/** lrnnx's language model, LRNNLMHeadModel with LRU mixers: a pre-norm residual network from token ids to logits. */
import type { Stage } from "../program.js";
import { permute } from "../tensor.js";
import { type Architecture, finished } from "./architecture.js";
import { takeLru } from "./lru.js";
import type { Size, TensorReader } from "./tensors.js";

/**
 * r = embedding[x]; for each layer r += lru(norm(r)), then, if it has an MLP, r += fc2(a * SiLU(g)) with (a, g) the halves
 * of fc1(norm2(r)); y = lm_head(norm_f(r)): logits [tokens, vocabulary], the rows that only pad the vocabulary included.
 * Norms without a bias are RMSNorms. Without `lm_head.weight` the head is the embedding.
 */
export const languageModel: Architecture = {
  name: "lrnnx/language-model",
  options: ["normEpsilon"],

  infer: (tensors) =>
    ["backbone.embedding.weight", "backbone.norm_f.weight", "backbone.layers.0.mixer.nu_log"].every((name) =>
      tensors.has(name),
    )
      ? {}
      : undefined,

  build(reader, { normEpsilon }) {
    const [vocabulary, size] = [0, 1].map((axis) => reader.size("backbone.embedding.weight", axis));
    const width = size ?? 0;
    const table = reader.take("backbone.embedding.weight", [vocabulary, size]);
    const [ids, stream, work, mixed] = [0, 1, 2, 3];
    const slots = [1, width, width, width];
    /** Those of an MLP's two halves, by their width: as a rule all layers have the same. */
    const halves = new Map<number, [gated: number, gate: number]>();
    const stages: Stage[] = [
      {
        kind: "embedding",
        name: "backbone.embedding",
        src: ids,
        dst: stream,
        width,
        vocabulary: vocabulary ?? 0,
        table,
      },
    ];
    const isRms = !reader.has("backbone.norm_f.bias");
    const norm = (name: string) => {
      const scale = reader.take(`${name}.weight`, [size]);
      const stage = { name, src: stream, dst: work, width, scale, epsilon: normEpsilon };
      if (isRms) stages.push({ ...stage, kind: "rmsNorm" });
      else stages.push({ ...stage, kind: "layerNorm", bias: reader.take(`${name}.bias`, [size]) });
    };
    const addTo = (name: string) =>
      stages.push({ kind: "add", name, src: mixed, dst: stream, width, other: stream });
    const dense = (
      name: string,
      src: number,
      dst: number,
      kernel: Float32Array,
      inWidth: number,
      outWidth: number,
    ) => stages.push({ kind: "dense", name, src, dst, inWidth, outWidth, kernel, bias: null });

    for (let i = 0, more = true; more; i++) {
      const layer = `backbone.layers.${i}`;
      norm(`${layer}.norm`);
      const params = takeLru(reader, `${layer}.mixer.`, size);
      const lru = {
        name: `${layer}.mixer`,
        src: work,
        dst: mixed,
        dModel: width,
        dState: params.nuLog.length,
        params,
      };
      stages.push({ ...lru, kind: "lru" });
      addTo(`${layer}.residual`);
      if (reader.has(`${layer}.mlp.fc1.weight`)) {
        norm(`${layer}.norm2`);
        const [a, g, fc2] = takeMlp(reader, `${layer}.mlp`, size);
        const hidden = fc2.length / (width || 1);
        const [gated, gate] = halves.get(hidden) ?? [slots.push(hidden) - 1, slots.push(hidden) - 1];
        halves.set(hidden, [gated, gate]);
        dense(`${layer}.mlp.fc1 (first half)`, work, gated, a, width, hidden);
        dense(`${layer}.mlp.fc1 (second half)`, work, gate, g, width, hidden);
        stages.push({
          kind: "glu",
          name: `${layer}.mlp`,
          src: gated,
          dst: gated,
          width: hidden,
          gate,
          silu: true,
        });
        dense(`${layer}.mlp.fc2`, gated, mixed, fc2, hidden, width);
        addTo(`${layer}.residual2`);
      }
      more = reader.has(`backbone.layers.${i + 1}.mixer.nu_log`);
    }

    norm("backbone.norm_f");
    const head = reader.has("lm_head.weight")
      ? reader.take("lm_head.weight", [vocabulary, size], [1, 0])
      : reader.derive(permute(table, [vocabulary ?? 0, width], [1, 0]));
    const output = slots.push(vocabulary ?? 0) - 1;
    dense("lm_head", work, output, head, width, vocabulary ?? 0);
    return finished(reader, { architecture: this.name, slots, stages, output });
  },
};

/** The kernels (in, out) of both halves of fc1, (2 hidden, width), and of fc2, (width, hidden). */
function takeMlp(
  reader: TensorReader,
  name: string,
  width: Size,
): [Float32Array, Float32Array, Float32Array] {
  const hidden = reader.size(`${name}.fc2.weight`, 1);
  const fc1 = reader.take(`${name}.fc1.weight`, [hidden && 2 * hidden, width]);
  const fc2 = reader.take(`${name}.fc2.weight`, [width, hidden], [1, 0]);
  const half = fc1.length / 2;
  const [a, g] = [fc1.subarray(0, half), fc1.subarray(half)].map((rows) =>
    permute(rows, [hidden ?? 0, rows.length / (hidden || 1)], [1, 0]),
  ) as [Float32Array, Float32Array];
  return [a, g, fc2];
}
