/** minimal-LRU, the LRU authors' reference code (Flax): its three modules by their parameter trees. */
import { LinrecError } from "../errors.js";
import type { Program, Stage } from "../program.js";
import type { Tensor } from "../tensor.js";
import { type Architecture, finished, type Options } from "./architecture.js";
import { denseStage } from "./dense.js";
import { takeLru } from "./lru.js";
import type { Size, TensorReader } from "./tensors.js";

type Tensors = ReadonlyMap<string, Tensor>;

const LAYER_NORM_EPSILON = 1e-6;
const BATCH_NORM_EPSILON = 1e-5;

/** One block: x, y [tokens, dModel]. */
export const sequenceLayer: Architecture = {
  name: "minimal-lru/sequence-layer",
  options: ["prenorm", "norm"],
  infer: (tensors) => inferFrom(tensors, "seq.nu_log", "out1.kernel"),
  build(reader, options) {
    reader.rename(canonical);
    const width = reader.size("seq.D", 0);
    const stages = layerStages(reader, "", width, options, { from: 0, to: 1, work: [1, 2, 3] });
    const slots = new Array<number>(4).fill(width ?? 0);
    return finish(this.name, reader, options, { slots, stages, output: 1 });
  },
};

/** A dense encoder and a stack of blocks: x [tokens, dInput], y [tokens, dModel]. */
export const stackedEncoder: Architecture = {
  name: "minimal-lru/stacked-encoder",
  options: ["prenorm", "norm"],
  infer: (tensors) => inferFrom(tensors, "encoder.kernel", "layers_0.seq.nu_log"),
  build(reader, options) {
    reader.rename(canonical);
    return finish(this.name, reader, options, encoderOf(reader, "", options));
  },
};

/** The same with pooling, a dense decoder and log-softmax: y [batch, dOutput], or [tokens, dOutput] without pooling. */
export const classification: Architecture = {
  name: "minimal-lru/classification",
  options: ["prenorm", "norm", "pooling", "multidim"],
  infer: (tensors) =>
    inferFrom(tensors, "decoder.kernel", "encoder.encoder.kernel", "encoder.layers_0.seq.nu_log"),
  build(reader, options) {
    reader.rename(canonical);
    const { pooling, multidim } = options;
    const encoder = encoderOf(reader, "encoder.", options);
    const slots = [...encoder.slots];
    const stages = [...encoder.stages];
    const width = slots[encoder.output] as number;
    let features = encoder.output;
    if (pooling !== "none") {
      features = slots.push(width) - 1;
      stages.push({
        kind: "pool",
        name: "pool",
        src: encoder.output,
        dst: features,
        width,
        mode: pooling as "mean" | "last",
      });
    }
    const output = slots.length;
    const decoder = denseStage(reader, "decoder", features, output, width || undefined, undefined);
    const dOutput = decoder.outWidth;
    if (dOutput % multidim !== 0) {
      const fault = `multidim is ${multidim}, which does not divide the decoder's ${dOutput} outputs.`;
      throw new LinrecError("invalid-argument", fault);
    }
    slots.push(dOutput);
    const group = multidim > 1 ? multidim : dOutput;
    stages.push(decoder, {
      kind: "logSoftmax",
      name: "logSoftmax",
      src: output,
      dst: output,
      width: dOutput,
      group,
    });
    return finish(this.name, reader, options, { slots, stages, output });
  },
};

type Wiring = Pick<Program, "slots" | "stages" | "output">;

/** Slots: 0 x, 1 the stream that every block adds to, 2-4 work that the blocks share. */
function encoderOf(reader: TensorReader, prefix: string, options: Options): Wiring {
  const width = reader.size(`${prefix}encoder.kernel`, 1);
  const inputs = reader.size(`${prefix}encoder.kernel`, 0);
  const encoder = denseStage(reader, `${prefix}encoder`, 0, 1, inputs, width);
  const stages: Stage[] = [encoder];
  const wiring = { from: 1, to: 1, work: [2, 3, 4] } as const;
  const layers = layerCount(reader, prefix);
  for (let layer = 0; layer < layers; layer++) {
    stages.push(...layerStages(reader, `${prefix}layers_${layer}.`, width, options, wiring));
  }
  return { slots: [encoder.inWidth, ...new Array<number>(4).fill(encoder.outWidth)], stages, output: 1 };
}

/** Layers are numbered without gaps: counting them finds all, or leaves those past a gap as tensors of no part. */
function layerCount(reader: TensorReader, prefix: string): number {
  const layers = new Set<string>();
  for (const name of reader.names()) {
    if (name.startsWith(`${prefix}layers_`)) layers.add(name.slice(prefix.length).split(".", 1)[0] as string);
  }
  let count = 0;
  while (layers.has(`layers_${count}`)) count++;
  return Math.max(1, count);
}

/**
 * One block, minimal-LRU's SequenceLayer, dropout off: z = from, normalised here if `prenorm`; z = gelu(lru(z));
 * to = from + out1(z) * sigmoid(out2(z)), normalised here if not `prenorm`. `work[0]` may be `to` where `from` is not.
 */
function layerStages(
  reader: TensorReader,
  prefix: string,
  width: Size,
  options: Options,
  wiring: { from: number; to: number; work: readonly [number, number, number] },
): Stage[] {
  const { from, to } = wiring;
  const [z, a, b] = wiring.work;
  const h = width ?? 0;
  const params = takeLru(reader, `${prefix}seq.`, width);
  const stages: Stage[] = [];
  if (options.prenorm) stages.push(normStage(reader, prefix, from, z, width, options));
  stages.push(
    {
      kind: "lru",
      name: `${prefix}seq`,
      src: options.prenorm ? z : from,
      dst: a,
      dModel: h,
      dState: params.nuLog.length,
      params,
    },
    { kind: "gelu", name: `${prefix}gelu`, src: a, dst: a, width: h },
    denseStage(reader, `${prefix}out1`, a, z, width, width),
    denseStage(reader, `${prefix}out2`, a, b, width, width),
    { kind: "glu", name: `${prefix}glu`, src: z, dst: z, width: h, gate: b },
    { kind: "add", name: `${prefix}skip`, src: z, dst: to, width: h, other: from },
  );
  if (!options.prenorm) stages.push(normStage(reader, prefix, to, to, width, options));
  return stages;
}

function normStage(
  reader: TensorReader,
  prefix: string,
  src: number,
  dst: number,
  size: Size,
  options: Options,
): Stage {
  const name = `${prefix}normalization`;
  const width = size ?? 0;
  const [scale, bias] = [reader.take(`${name}.scale`, [size]), reader.take(`${name}.bias`, [size])];
  if (options.norm === "layer") {
    return { kind: "layerNorm", name, src, dst, width, scale, bias, epsilon: LAYER_NORM_EPSILON };
  }
  const [mean, variance] = [
    reader.take(`batch_stats.${name}.mean`, [size]),
    reader.take(`batch_stats.${name}.var`, [size]),
  ];
  const negative = variance.findIndex((value) => value < 0);
  if (negative >= 0) {
    throw new LinrecError(
      "non-finite",
      `batch_stats.${name}.var[${negative}] is ${variance[negative]}: it has no square root.`,
    );
  }
  return {
    kind: "batchNorm",
    name,
    src,
    dst,
    width,
    mean,
    variance,
    scale,
    bias,
    epsilon: BATCH_NORM_EPSILON,
  };
}

/** Flax trees are written with "." or "/" between names, and with or without the collection "params" in front. */
function canonical(name: string): string {
  return name.replaceAll("/", ".").replace(/^params\./, "");
}

/** Names tell the norm, for only a batch norm has statistics; they do not tell `prenorm` or `pooling`. */
function inferFrom(tensors: Tensors, ...required: string[]): Partial<Options> | undefined {
  const names = [...tensors.keys()].map(canonical);
  if (!required.every((name) => names.includes(name))) return undefined;
  return { norm: names.some((name) => name.startsWith("batch_stats.")) ? "batch" : "layer" };
}

function finish(architecture: string, reader: TensorReader, options: Options, wiring: Wiring): Program {
  const hint = ` norm is "${options.norm}": pass \`norm: "${options.norm === "batch" ? "layer" : "batch"}"\` if it is the other.`;
  const statistics = reader.names().some((name) => name.startsWith("batch_stats."));
  return finished(reader, { architecture, ...wiring }, statistics === (options.norm === "batch") ? "" : hint);
}
