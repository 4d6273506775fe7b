/** lrnnx's architectures: golden cases of the original, and checkpoints made at random. */
import { readSafetensors, type Tensor, toFloat32 } from "../../src/io/safetensors.js";
import type { ModelSpec } from "../../src/models/architecture.js";
import { fromLruParams } from "../../src/models/lru.js";
import cases from "../fixtures/lrnnx/cases.json" with { type: "json" };
import { floats, hardParams, random } from "./problems.js";

const files = import.meta.glob("../fixtures/lrnnx/*.safetensors", {
  query: "?url&inline",
  import: "default",
});

export interface LrnnxCase {
  readonly name: string;
  readonly spec: ModelSpec;
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The parameters alone. */
  readonly checkpoint: ReadonlyMap<string, Tensor>;
  readonly batch: number;
  readonly seqLen: number;
  readonly lengths: readonly number[] | undefined;
  /** [batch, seqLen, features], or ids */
  readonly x: Float32Array | Int32Array;
  /** The source's own result in float64, [batch, classes] or [batch, seqLen, channels]. */
  readonly y: Float64Array;
}

export async function loadLrnnx(name: string): Promise<LrnnxCase> {
  const entry = cases.find((candidate) => candidate.name === name);
  const load = files[`../fixtures/lrnnx/${name}.safetensors`];
  if (!entry || !load) throw new Error(`no case ${name}`);
  const response = await fetch((await load()) as string);
  const { tensors } = readSafetensors(await response.arrayBuffer());
  const own = /^(mid\.|logits|y|x$|lengths|state\d)/;
  const x = tensors.get("x") as Tensor;
  const [batch, a = 0, b = 0] = x.shape as [number, number, number?];
  const isUnet = name.startsWith("unet");
  const result = tensors.get(isUnet ? "y" : "logits") as Tensor;
  return {
    name,
    spec: entry.spec as ModelSpec,
    tensors,
    checkpoint: new Map([...tensors].filter(([key]) => !own.test(key))),
    batch,
    seqLen: isUnet ? b : a,
    lengths: entry.lengths ?? undefined,
    x: isUnet ? channelsLast(toFloat32(x), batch) : x.dtype === "I32" ? (x.data as Int32Array) : toFloat32(x),
    y: isUnet ? channelsLast(result.data as Float64Array, batch) : (result.data as Float64Array),
  };

  /** [batch, channels, seqLen] -> [batch, seqLen, channels] */
  function channelsLast<T extends Float32Array | Float64Array>(values: T, rows: number): T {
    const channels = values.length / (rows * b);
    return values.map((_, i) => {
      const [row, t, channel] = [Math.floor(i / (channels * b)), Math.floor(i / channels) % b, i % channels];
      return values[(row * channels + channel) * b + t] as number;
    }) as T;
  }
}

interface Made {
  readonly checkpoint: Map<string, Tensor>;
  readonly spec: ModelSpec;
  readonly batch: number;
  readonly seqLen: number;
  readonly lengths: number[];
  readonly x: Float32Array;
}

/** Rows of all lengths, the first and the longest among them. */
function ragged(batch: number, seqLen: number, next: () => number): number[] {
  return Array.from({ length: batch }, (_, row) => (row === 1 ? seqLen : 1 + Math.floor(next() * seqLen)));
}

class Checkpoint {
  readonly tensors = new Map<string, Tensor>();
  readonly next: () => number;

  constructor(seed: number) {
    this.next = random(seed);
  }

  int(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.int(0, choices.length - 1)] as T;
  }

  add(name: string, shape: number[], magnitude: number, offset = 0): void {
    const length = shape.reduce((a, b) => a * b, 1);
    const data = floats(length, this.int(0, 2 ** 30), magnitude).map((v) => v + offset);
    this.tensors.set(name, { dtype: "F32", shape, data });
  }

  linear(name: string, shape: [out: number, inputs: number, ...kernel: number[]], bias: number | null): void {
    this.add(`${name}.weight`, shape, 1 / Math.sqrt(shape[1]));
    if (bias) this.add(`${name}.bias`, [bias], 0.3);
  }

  norm(name: string, width: number): void {
    this.add(`${name}.weight`, [width], 0.4, 1);
    this.add(`${name}.bias`, [width], 0.3);
  }

  lru(prefix: string, dModel: number, dState: number): void {
    const params = hardParams(dModel, dState, this.int(0, 2 ** 30));
    for (const [name, tensor] of fromLruParams(params, prefix)) this.tensors.set(name, tensor);
  }
}

export function randomClassifier(seed: number, given: { features?: number } = {}): Made {
  const make = new Checkpoint(seed);
  const features = given.features ?? make.int(1, 5);
  const [width, classes] = [make.int(3, 12), make.int(1, 6)];
  const blocks = make.int(2, 3);
  make.linear("input_proj", [width, features], width);
  for (let i = 0; i < blocks; i++) {
    const prefix = i === blocks - 1 ? "final_block." : `blocks.${i}.`;
    make.lru(`${prefix}lrnn.`, width, make.int(1, 9));
    make.norm(`${prefix}norm`, width);
  }
  make.linear("final_block.output_proj", [classes, width], classes);
  const modes = ["mean", "max", "stride", "none"] as const;
  const spec: ModelSpec = {
    architecture: "lrnnx/classifier",
    pooling: (["max", "mean", "last"] as const)[seed % 3] as "max",
    // The first is one that leaves out what is not full; in the sixth the rate does not change.
    intermediatePooling:
      seed === 6
        ? "none"
        : Array.from({ length: blocks }, (_, i) => modes[i === 0 ? seed % 2 : make.int(0, 3)] as "mean"),
    poolingFactor: Array.from({ length: blocks }, () => make.int(2, 4)),
  };
  const batch = 3;
  const seqLen = 4 ** blocks + make.int(0, 140);
  const lengths = ragged(batch, seqLen, make.next);
  return {
    checkpoint: make.tensors,
    spec,
    batch,
    seqLen,
    lengths,
    x: floats(batch * seqLen * features, seed),
  };
}

/**
 * Of one channel, or three and more: layer norms over two make more of the last bit of x than the gate is wide, in exact
 * arithmetic too (a test in rates.test.ts shows it).
 */
export function randomUnet(seed: number, given: { channels?: number; levels?: number } = {}): Made {
  const make = new Checkpoint(1000 + seed);
  const channels = given.channels ?? (seed === 1 ? 1 : make.int(3, 4));
  const factors = Array.from({ length: given.levels ?? make.int(1, 3) }, () => make.int(2, 4));
  const block = (prefix: string, width: number, act = true) => {
    make.lru(`${prefix}.0.lru_layer.`, width, width);
    if (act && width > 1) make.norm(`${prefix}.1.norm`, width);
  };
  const depth = factors.length;
  for (const [i, factor] of factors.entries()) {
    const width = channels * 2 ** i;
    block(`down_ssms.${i}.0`, width);
    make.linear(`down_ssms.${i}.1.conv`, [2 * width, width, factor], 2 * width);
    const up = `up_ssms.${depth - 1 - i}`;
    make.linear(`${up}.0.deconv`, [2 * width, width, factor], width);
    block(`${up}.1`, width);
  }
  for (const i of [0, 1]) block(`hid_ssms.${i}`, channels * 2 ** depth);
  for (const i of [0, 1]) block(`last_ssms.${i}`, channels, i === 0);
  if (seed % 2) make.linear("final_proj", [2, channels, 1], null);
  const [batch, seqLen] = [3, make.int(60, 200)];
  const lengths = ragged(batch, seqLen, make.next);
  const spec = { architecture: "lrnnx/lru-unet", causal: seed !== 2 };
  return {
    checkpoint: make.tensors,
    spec,
    batch,
    seqLen,
    lengths,
    x: floats(batch * seqLen * channels, seed),
  };
}
