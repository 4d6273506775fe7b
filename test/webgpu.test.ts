/** The WebGPU backend by itself: accuracy against the float64 reference, segments, and what happens when the GPU fails. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import type { LruParams, Program, Stage } from "../src/program.js";
import { outputWidth, poolOf } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { State, stateLayout } from "../src/state.js";
import { outputsOf, Timeline } from "../src/timeline.js";
import { openWebgpu, type WebgpuBackend } from "../src/webgpu/backend.js";
import { changedGpu, poison } from "./support/gpus.js";

let backend: WebgpuBackend | undefined;
let reason = "";

beforeAll(async () => {
  const poisoned = await changedGpu(poison);
  const opened = "gpu" in poisoned ? await openWebgpu(poisoned.gpu) : poisoned;
  if ("reason" in opened) reason = opened.reason;
  else backend = opened.backend;
});
afterAll(() => backend?.dispose());

/** A test that shows as skipped, with the reason, where there is no GPU. */
function gpuTest(name: string, body: (backend: WebgpuBackend) => Promise<void>): void {
  test(name, async (context) => {
    if (!backend) return context.skip(reason);
    await body(backend);
  });
}

/** mulberry32: numbers in [-1, 1) */
function random(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

function values(length: number, next: () => number, scale = 1): Float32Array {
  return Float32Array.from({ length }, () => scale * next());
}

function lruParams(dModel: number, dState: number, rMax: number, seed = 1): LruParams {
  const next = random(seed);
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

function lruProgram(dModel: number, dState: number, rMax = 0.9999): Program {
  const params = lruParams(dModel, dState, rMax);
  const stages: Stage[] = [{ kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState, params }];
  return { architecture: "lru", slots: [dModel, dModel], stages, output: 1 };
}

/** Encoder, two minimal-LRU blocks (the first with batch norm, in place; the second with layer norm), pool, decoder. */
function classifier(width: number, dState: number, mode: "mean" | "last" | "max"): Program {
  const next = random(7);
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
function normed(width: number, dState: number): Program {
  const next = random(9);
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

function makeJob(program: Program, setting: Setting, seed = 5): ForwardJob & { progress: number[] } {
  const { batch, seqLen } = setting;
  const next = random(seed);
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
function deviation(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
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
async function compare(
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

describe("a bare layer", () => {
  for (const [batch, seqLen, dModel, dState] of [
    [1, 1, 1, 1],
    [2, 33, 3, 5],
    [3, 100, 17, 9],
    [1, 3, 130, 203],
    [5, 32, 64, 130],
    [3, 9, 64, 64],
    [2, 31, 65, 7],
    [2, 1000, 5, 4],
    [1, 40000, 2, 9],
  ] as const) {
    gpuTest(`batch ${batch} seqLen ${seqLen} dModel ${dModel} dState ${dState}`, async (gpu) => {
      const { y, h } = await compare(gpu, lruProgram(dModel, dState), { batch, seqLen });
      // A sum of 2 x 203 products has roundings of its own, in whatever order it is taken.
      expect(y).toBeLessThan(dState > 200 ? 1e-6 : 5e-7);
      expect(h).toBeLessThan(5e-7);
    });
  }

  for (const [width, dState] of [
    [3, 5],
    [17, 70],
    [64, 9],
    [65, 9],
  ] as const) {
    gpuTest(`norms behind products, dModel ${width}`, async (gpu) => {
      for (const setting of [
        { batch: 3, seqLen: 32, lengths: [32, 1, 9] },
        { batch: 3, seqLen: 100, lengths: [100, 0, 33] },
        { batch: 2, seqLen: 70, lengths: [70, 31], every: 3 },
      ]) {
        const { y, h } = await compare(gpu, normed(width, dState), setting);
        expect(y).toBeLessThan(5e-5);
        expect(h).toBeLessThan(5e-5);
      }
    });
  }

  gpuTest("ragged rows", async (gpu) => {
    const setting = { batch: 9, seqLen: 100, lengths: [100, 0, 1, 31, 32, 33, 64, 99, 0] };
    const { y, h } = await compare(gpu, lruProgram(6, 10), setting);
    expect(y).toBeLessThan(5e-7);
    expect(h).toBeLessThan(5e-7);
  });

  gpuTest("ragged rows of one chunk, that start anew or go on", async (gpu) => {
    const setting = {
      batch: 6,
      seqLen: 32,
      lengths: [32, 0, 1, 31, 8, 9],
      resets: [[0], [], [0], [], [], []],
    };
    const { y, h } = await compare(gpu, lruProgram(6, 70), setting);
    expect(y).toBeLessThan(5e-7);
    expect(h).toBeLessThan(5e-7);
  });

  gpuTest("segments of a long sequence, and parts of a large batch", async (gpu) => {
    const program = lruProgram(7, 12);
    for (const scratchBytes of [4000, 20_000, 200_000]) {
      for (const setting of [
        { batch: 2, seqLen: 333, lengths: [333, 130] },
        { batch: 7, seqLen: 64, lengths: [1, 0, 64, 33, 0, 12, 64] },
      ]) {
        const { y, h } = await compare(gpu, program, { ...setting, scratchBytes });
        expect(y).toBeLessThan(1e-6);
        expect(h).toBeLessThan(1e-6);
      }
    }
  });

  gpuTest("timesteps, ragged, in segments and in parts of a batch", async (gpu) => {
    const program = lruProgram(7, 70);
    for (const scratchBytes of [2 ** 26, 400_000, 100_000]) {
      for (const setting of [
        { batch: 2, seqLen: 333, lengths: [333, 130] },
        { batch: 7, seqLen: 64, lengths: [1, 0, 64, 33, 0, 12, 64] },
      ]) {
        const next = random(8);
        const all = values(setting.batch * setting.seqLen, next).map((v) => 2 * (v + 1));
        for (const timesteps of [all, all.map((v) => Math.round(10 * v) / 10)]) {
          const { y, h } = await compare(gpu, program, { ...setting, scratchBytes, timesteps });
          // One token after the other in float32, lambda rounded once: |lambda| of 0.9999 multiplies what that is off by.
          expect(y).toBeLessThan(5e-6);
          expect(h).toBeLessThan(5e-6);
        }
      }
    }
  });

  gpuTest("rows that start anew, outputs that are left out, in pieces", async (gpu) => {
    const everyToken = Array.from({ length: 332 }, (_, t) => t + 1);
    const resets = [[1, 31, 32, 33, 95, 200, 201], [], everyToken, [99]];
    for (const scratchBytes of [4000, 20_000, undefined]) {
      for (const every of [1, 2, 45]) {
        const setting = { batch: 4, seqLen: 333, lengths: [333, 0, 333, 100], resets, every, scratchBytes };
        const { y, h } = await compare(gpu, lruProgram(6, 10), setting);
        expect(y).toBeLessThan(1e-6);
        expect(h).toBeLessThan(1e-6);
      }
    }
  });

  gpuTest("a NaN ends at a reset", async (gpu) => {
    const program = lruProgram(3, 4);
    const job = { ...makeJob(program, { batch: 1, seqLen: 200, resets: [[70]] }) };
    job.x[5] = Number.NaN;
    const runner = await gpu.prepare(program);
    await runner.forward(job);
    expect(job.y.subarray(6, 70 * 3).every(Number.isNaN)).toBe(true);
    expect(job.y.subarray(70 * 3).some(Number.isNaN)).toBe(false);
    runner.dispose();
  });

  gpuTest("no tokens at all", async (gpu) => {
    await compare(gpu, lruProgram(4, 4), { batch: 2, seqLen: 0 });
    await compare(gpu, lruProgram(4, 4), { batch: 2, seqLen: 5, lengths: [0, 0] });
  });

  gpuTest("a sequence in shared memory, and y in the memory of x", async (gpu) => {
    const program = lruProgram(4, 6);
    const job = makeJob(program, { batch: 2, seqLen: 50, lengths: [50, 20] });
    const expected = runReference(program, job);
    const shared = new Float32Array(new SharedArrayBuffer(job.x.byteLength));
    shared.set(job.x);
    const runner = await gpu.prepare(program, 3000);
    await runner.forward({ ...job, x: shared, y: shared });
    expect(deviation(shared, expected.y)).toBeLessThan(1e-6);
    runner.dispose();
  });
});

describe("a stack", () => {
  for (const mode of ["mean", "last", "max"] as const) {
    for (const scratchBytes of [2 ** 26, 40_000]) {
      gpuTest(`pooled by ${mode}, ${scratchBytes} bytes of scratch`, async (gpu) => {
        const setting = { batch: 4, seqLen: 150, lengths: [150, 0, 1, 77], scratchBytes };
        const timesteps = Float32Array.from({ length: 600 }, (_, i) => (i % 11) / 5);
        for (const given of [setting, { ...setting, timesteps }]) {
          const { y, h } = await compare(gpu, classifier(20, 12, mode), given);
          expect(y).toBeLessThan(5e-5);
          expect(h).toBeLessThan(5e-5);
        }
      });
    }
  }

  gpuTest("not pooled", async (gpu) => {
    const program = classifier(20, 12, "mean");
    const stages = program.stages.filter(({ kind }) => kind !== "pool");
    for (const every of [1, 4]) {
      const setting = { batch: 3, seqLen: 70, lengths: [70, 3, 50], resets: [[20], [], [1, 2, 45]], every };
      const { y } = await compare(gpu, { ...program, stages }, setting);
      expect(y).toBeLessThan(5e-5);
    }
  });

  gpuTest("more elements than a dispatch has threads in one dimension", async (gpu) => {
    const stages: Stage[] = [{ kind: "add", name: "double", src: 0, other: 0, dst: 1, width: 1 }];
    const program = { architecture: "", slots: [1, 1], stages, output: 1 };
    const { y } = await compare(gpu, program, { batch: 1, seqLen: 64 * 65535 + 1000 });
    expect(y).toBe(0);
  });

  gpuTest("gelu and glu of values large and small", async (gpu) => {
    const width = 8;
    const stages: Stage[] = [
      { kind: "gelu", name: "gelu", src: 0, dst: 1, width },
      { kind: "glu", name: "glu", src: 1, gate: 0, dst: 1, width },
    ];
    const job = makeJob(
      { architecture: "", slots: [width, width], stages, output: 1 },
      { batch: 1, seqLen: 2 },
    );
    job.x.set([-3e38, -1e20, -100, -13, -5, -1, -1e-10, 0, 3e38, 1e20, 100, 13, 5, 1, 1e-10, 1e-30]);
    const program = { architecture: "", slots: [width, width], stages, output: 1 };
    const runner = await gpu.prepare(program);
    await runner.forward(job);
    const expected = runReference(program, job).y;
    for (let i = 0; i < expected.length; i++) {
      const wanted = expected[i] as number;
      expect(Math.abs((job.y[i] as number) - wanted), `${job.x[i]}`).toBeLessThanOrEqual(
        1e-5 * Math.abs(wanted) + 1e-6,
      );
    }
    runner.dispose();
  });
});

describe("jobs", () => {
  gpuTest("run in the order of the calls, whatever program they belong to", async (gpu) => {
    const programs = [lruProgram(3, 4), classifier(8, 4, "mean")];
    const runners = await Promise.all(programs.map((program) => gpu.prepare(program)));
    const order: number[] = [];
    const jobs = Array.from({ length: 6 }, (_, i) =>
      makeJob(programs[i % 2] as Program, { batch: 2, seqLen: 40 + i }, i),
    );
    const expected = jobs.map((job, i) => runReference(programs[i % 2] as Program, job).y);
    await Promise.all(jobs.map((job, i) => runners[i % 2]?.forward(job).then(() => order.push(i))));
    expect(order).toEqual([0, 1, 2, 3, 4, 5]);
    for (const [i, job] of jobs.entries()) {
      expect(deviation(job.y, expected[i] as Float64Array)).toBeLessThan(5e-5);
    }
    for (const runner of runners) runner.dispose();
  });

  gpuTest("report progress and can be aborted between submits", async (gpu) => {
    const program = lruProgram(7, 12);
    const runner = await gpu.prepare(program, 20_000);
    const job = makeJob(program, { batch: 2, seqLen: 333 });
    await runner.forward(job);
    expect(job.progress.length).toBeGreaterThan(3);
    expect(job.progress).toEqual([...job.progress].sort((a, b) => a - b));
    expect(job.progress.at(-1)).toBe(666);

    const abort = new AbortController();
    const aborted = makeJob(program, { batch: 2, seqLen: 333, signal: abort.signal });
    const done = new Int32Array(2);
    const result = runner.forward({ ...aborted, done, onProgress: () => abort.abort("enough") });
    await expect(result).rejects.toMatchObject({ code: "aborted", cause: "enough" });
    // What was done is whole: its outputs are there, and its state is the one to go on from.
    const at = done[0] as number;
    expect(at).toBeGreaterThan(0);
    expect(at).toBeLessThan(333);
    const width = outputWidth(program);
    expect(deviation(aborted.y.subarray(0, at * width), job.y.subarray(0, at * width))).toBeLessThan(1e-6);
    const seqLen = 333 - at;
    const rest = makeJob(program, { batch: 1, seqLen });
    await runner.forward({
      ...rest,
      x: aborted.x.subarray(at * 7, 333 * 7),
      state: aborted.state.pick(Int32Array.of(0)),
    });
    expect(deviation(rest.y, job.y.subarray(at * width, 333 * width))).toBeLessThan(1e-6);
    runner.dispose();
  });

  gpuTest("measure gives a cost model its numbers", async (gpu) => {
    const rates = await gpu.measure();
    for (const [name, rate] of Object.entries(rates)) expect(rate, name).toBeGreaterThanOrEqual(0);
    for (const name of ["roundTripMs", "uploadBytesPerMs", "readbackBytesPerMs", "flopsPerMs"] as const)
      expect(rates[name], name).toBeGreaterThan(0);
    expect(Object.values(rates).every(Number.isFinite)).toBe(true);
  });
});
