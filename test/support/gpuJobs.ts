/** Programs and jobs for a backend by itself, and how far what it gives is from the reference. */
import { expect } from "vitest";
import type { ForwardJob } from "../../src/backend.js";
import type { LruParams, Program, Stage } from "../../src/program.js";
import { outputWidth, poolOf } from "../../src/program.js";
import { runReference } from "../../src/reference.js";
import { State, stateLayout } from "../../src/state.js";
import { outputsOf, Timeline } from "../../src/timeline.js";
import type { WebgpuBackend } from "../../src/webgpu/backend.js";
import { random } from "./problems.js";

/** Numbers in [-1, 1) */
export function signed(seed: number): () => number {
  const next = random(seed);
  return () => 2 * next() - 1;
}

export function values(length: number, next: () => number, scale = 1): Float32Array {
  return Float32Array.from({ length }, () => scale * next());
}

function lruParams(dModel: number, dState: number, rMax: number, seed = 1): LruParams {
  const next = signed(seed);
  const radius = Float64Array.from({ length: dState }, (_, n) => 0.5 + ((rMax - 0.5) * (n + 1)) / dState);
  return {
    nuLog: Float32Array.from(radius, (r) => Math.log(-Math.log(r))),
    thetaLog: Float32Array.from(radius, () => Math.log(3.14 * (next() + 1.001))),
    gammaLog: Float32Array.from(radius, (r) => Math.log(Math.sqrt(1 - r * r))),
    BRe: values(dState * dModel, next, 1 / Math.sqrt(2 * dModel)),
    BIm: values(dState * dModel, next, 1 / Math.sqrt(2 * dModel)),
    CRe: values(dModel * dState, next, 1 / Math.sqrt(dState)),
    CIm: values(dModel * dState, next, 1 / Math.sqrt(dState)),
    D: values(dModel, next),
  };
}

export function lruProgram(dModel: number, dState: number, rMax = 0.9999): Program {
  const params = lruParams(dModel, dState, rMax);
  const stages: Stage[] = [{ kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState, params }];
  return { architecture: "lru", slots: [dModel, dModel], stages, output: 1 };
}

/** Encoder, two minimal-LRU blocks (the first with batch norm, in place; the second with layer norm), pool, decoder. */
export function classifier(width: number, dState: number, mode: "mean" | "last" | "max"): Program {
  const next = signed(7);
  const slots = [3, width, width, width, width, 10];
  const dense = (src: number, dst: number): Stage => ({
    ...{
      kind: "dense",
      name: `dense ${src} ${dst}`,
      src,
      dst,
      inWidth: slots[src] as number,
      outWidth: slots[dst] as number,
    },
    kernel: values(
      (slots[src] as number) * (slots[dst] as number),
      next,
      1 / Math.sqrt(slots[src] as number),
    ),
    bias: src === 1 ? null : values(slots[dst] as number, next, 0.1),
  });
  const norm = { width, scale: values(width, next), bias: values(width, next) };
  const stages: Stage[] = [dense(0, 1)];
  for (const layer of [0, 1]) {
    const params = lruParams(width, dState, 0.999, layer);
    const mean = values(width, next, 0.1);
    const variance = values(width, next).map((v) => v * v + 0.1);
    stages.push(
      { kind: "lru", name: "seq", src: 1, dst: 2, dModel: width, dState, params },
      { kind: "gelu", name: "gelu", src: 2, dst: 2, width },
      dense(2, 3),
      dense(2, 4),
      { kind: "glu", name: "glu", src: 3, gate: 4, dst: 3, width },
      { kind: "add", name: "skip", src: 1, other: 3, dst: 1, width },
      layer === 0
        ? { kind: "batchNorm", name: "norm", src: 1, dst: 1, epsilon: 1e-5, mean, variance, ...norm }
        : { kind: "layerNorm", name: "norm", src: 1, dst: 1, epsilon: 1e-6, ...norm },
    );
  }
  stages.push({ kind: "pool", name: "pool", src: 1, dst: 1, width, mode }, dense(1, 5));
  stages.push({ kind: "logSoftmax", name: "log softmax", src: 5, dst: 5, width: 10, group: 5 });
  return { architecture: "test", slots, stages, output: 5 };
}

/** Norms of every kind behind an LRU and dense stages, what they normalise needed or not. */
export function normed(width: number, dState: number): Program {
  const next = signed(9);
  const weights = () => ({ width, epsilon: 1e-5, scale: values(width, next), bias: values(width, next) });
  const dense = (src: number, dst: number): Stage => ({
    ...{ kind: "dense", name: "dense", src, dst, inWidth: width, outWidth: width },
    kernel: values(width ** 2, next, 1 / Math.sqrt(width)),
    // Far from zero: what a variance without its mean would not survive.
    bias: values(width, next).map((v) => v + 30),
  });
  const norm = (kind: "layerNorm" | "rmsNorm", src: number, dst: number) =>
    ({ kind, name: kind, src, dst, ...weights() }) as Stage;
  const mean = values(width, next);
  const variance = values(width, next).map((v) => v * v + 0.1);
  const stages: Stage[] = [
    dense(0, 4),
    norm("layerNorm", 4, 2),
    {
      kind: "lru",
      name: "lru",
      src: 2,
      dst: 1,
      dModel: width,
      dState,
      params: lruParams(width, dState, 0.99),
    },
    { kind: "add", name: "skip", src: 1, other: 2, dst: 1, width },
    norm("layerNorm", 1, 1),
    { kind: "glu", name: "silu", src: 1, gate: 1, dst: 1, width, silu: true },
    {
      kind: "lru",
      name: "lru",
      src: 1,
      dst: 2,
      dModel: width,
      dState,
      params: lruParams(width, dState, 0.9),
    },
    norm("rmsNorm", 2, 2),
    { kind: "batchNorm", name: "batchNorm", src: 2, dst: 2, mean, variance, ...weights() },
    dense(2, 3),
    { kind: "add", name: "residual", src: 3, other: 4, dst: 4, width },
    norm("rmsNorm", 4, 3),
    dense(3, 1),
    { kind: "add", name: "residual", src: 1, other: 4, dst: 1, width },
    norm("layerNorm", 1, 1),
  ];
  return { architecture: "", slots: Array(5).fill(width), stages, output: 1 };
}

interface Setting {
  batch: number;
  seqLen: number;
  lengths?: number[];
  timesteps?: Float32Array;
  /** Of each row. */
  resets?: number[][] | undefined;
  every?: number;
  scratchBytes?: number | undefined;
  signal?: AbortSignal;
}

export function makeJob(program: Program, setting: Setting, seed = 5): ForwardJob & { progress: number[] } {
  const { batch, seqLen } = setting;
  const next = signed(seed);
  const state = new State(stateLayout(program), batch);
  for (let row = 0; row < batch; row++) {
    for (const slot of state.layout.slots)
      state.write(slot, row, values(slot.size, next), values(slot.size, next));
    state.restartRow(row, state.layout.slots.length ? 3 : 0);
  }
  const lengths = Int32Array.from(setting.lengths ?? Array(batch).fill(seqLen));
  const width = program.slots[0] as number;
  const x = values(batch * seqLen * width, next);
  // What is past a row's end must not matter.
  for (let row = 0; row < batch; row++) {
    x.fill(Number.NaN, (row * seqLen + (lengths[row] as number)) * width, (row + 1) * seqLen * width);
  }
  const { every = 1 } = setting;
  const outputs = Math.max(0, ...state.count.map((count) => outputsOf(count, seqLen, every)));
  const progress: number[] = [];
  return {
    batch,
    seqLen,
    lengths,
    timesteps: setting.timesteps,
    resets: setting.resets?.map((tokens) => Int32Array.from(tokens)),
    every,
    x,
    // What was there before must not shine through.
    y: new Float32Array(batch * (poolOf(program) ? 1 : outputs) * outputWidth(program)).fill(Number.NaN),
    state,
    threads: 0,
    signal: setting.signal,
    onProgress: (done) => progress.push(done),
    progress,
  };
}

/** The largest error, as a share of the largest value. */
export function deviation(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let [error, size] = [0, 1e-30];
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((actual[i] as number) - (expected[i] as number));
    if (!(difference <= error)) error = difference; // so that a NaN stays
    size = Math.max(size, Math.abs(expected[i] as number));
  }
  return error / size;
}

/** Runs a job and gives its errors in y and in the states. */
export async function compare(
  gpu: WebgpuBackend,
  program: Program,
  setting: Setting,
): Promise<{ y: number; h: number }> {
  const job = makeJob(program, setting);
  const expected = runReference(program, job);
  const before = job.state.clone();
  const timeline = new Timeline(job);
  const runner = await gpu.prepare(program, setting.scratchBytes);
  try {
    await runner.forward(job);
  } finally {
    runner.dispose();
  }
  let h = 0;
  for (let row = 0; row < job.batch; row++) {
    const length = job.lengths[row] as number;
    expect(job.state.count[row]).toBe(timeline.count(row, length));
    for (const slot of job.state.layout.slots) {
      if (length === 0) expect(job.state.read(slot, row)).toEqual(before.read(slot, row));
      const [mine, theirs] = [job.state.read(slot, row), expected.state.read(slot, row)];
      h = Math.max(h, deviation([...mine.re, ...mine.im], [...theirs.re, ...theirs.im]));
    }
    if (poolOf(program)) continue;
    const width = outputWidth(program);
    const rowFloats = job.y.length / job.batch;
    const given = row * rowFloats + timeline.outputs(row, length) * width;
    const past = job.y.subarray(given, (row + 1) * rowFloats);
    expect(past.every((value) => Object.is(value, 0))).toBe(true);
  }
  return { y: deviation(job.y, expected.y), h };
}
