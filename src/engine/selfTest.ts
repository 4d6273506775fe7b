/** The cross-backend consistency check that users run on their own machines: `engine.selfTest()`. */
import type { ForwardJob } from "../backend.js";
import { messageOf } from "../errors.js";
import { initLru } from "../init.js";
import { programOf } from "../lruParams.js";
import { eigenvalues, normalizedB, powerIm, powerRe } from "../params.js";
import {
  type BackendName,
  inputWidth,
  type LruParams,
  type Program,
  type Stage,
  vocabularyOf,
} from "../program.js";
import { runReference } from "../reference.js";
import { State, stateLayout } from "../state.js";

/** One case on one backend. */
export interface SelfTestResult {
  /** What ran it. */
  readonly backend: BackendName;
  /** Worker threads; 0 for the calling thread. */
  readonly threads: number;
  /** The case: "layer, |lambda| up to 0.9999, 17 -> 33 states". */
  readonly name: string;
  /** max |e| / max |y| against the float64 reference */
  readonly error: number;
  /** What that may be at most. */
  readonly limit: number;
  /** Whether it is no more. */
  readonly passed: boolean;
  /** In words: how large the error was, or what the backend threw. */
  readonly reason: string;
}

/** What `engine.selfTest` found. */
export interface SelfTestReport {
  /** Whether all results have. */
  readonly passed: boolean;
  /** Each case on each backend that is here; the CPU's on the calling thread and on all threads. */
  readonly results: readonly SelfTestResult[];
}

export type Run = (
  program: Program,
  job: Omit<ForwardJob, "threads">,
  backend: BackendName,
  threads: number,
) => Promise<void>;

interface Case {
  readonly name: string;
  readonly program: Program;
  readonly batch: number;
  readonly seqLen: number;
  readonly timesteps?: Float32Array | undefined;
  readonly limit: (backend: BackendName, x: Float32Array) => number;
}

/** The README's promise: whole models may be off by this much of max |y|. */
const MODEL_LIMIT = { reference: 1e-5, wasm: 1e-5, webgpu: 5e-5 } as const;

/** Runs each case on each backend: the CPU on the calling thread and on all threads. */
export async function runSelfTest(
  backends: readonly BackendName[],
  run: Run,
  threads: number,
): Promise<SelfTestReport> {
  const results: SelfTestResult[] = [];
  for (const { name, program, batch, seqLen, timesteps, limit } of cases()) {
    const x = input(program, batch * seqLen);
    const expected = runReference(program, { x, batch, seqLen, timesteps }).y;
    for (const backend of backends) {
      for (const count of backend === "wasm" && threads > 0 ? [0, threads] : [0]) {
        const y = new Float32Array(expected.length);
        const state = new State(stateLayout(program), batch);
        const lengths = new Int32Array(batch).fill(seqLen);
        const job = {
          batch,
          seqLen,
          lengths,
          timesteps,
          x,
          y,
          state,
          signal: undefined,
          onProgress: undefined,
        };
        const thrown = await run(program, job, backend, count).then(() => undefined, messageOf);
        const error = thrown === undefined ? relativeError(y, expected) : Number.POSITIVE_INFINITY;
        const most = limit(backend, x);
        const reason = thrown ?? `error ${error.toExponential(1)}, limit ${most.toExponential(1)}`;
        results.push({ backend, threads: count, name, error, limit: most, passed: error <= most, reason });
      }
    }
  }
  return { passed: results.every((result) => result.passed), results };
}

function cases(): Case[] {
  const layer = (
    dModel: number,
    dState: number,
    rMax: number,
    batch: number,
    seqLen: number,
    timesteps?: Float32Array,
  ): Case => {
    const params = initLru({ dModel, dState, rMin: 0.9 * rMax, rMax, seed: dModel });
    const limit = (_: BackendName, x: Float32Array) =>
      linearLimit(params, x, batch, seqLen, undefined, timesteps);
    const apart = timesteps ? ", timesteps" : "";
    const name = `layer, |lambda| up to ${rMax}, ${dModel} features, ${dState} state${dState === 1 ? "" : "s"}${apart}`;
    return { name, program: programOf(params, "lru"), batch, seqLen, timesteps, limit };
  };
  const model = (mode: "mean" | "max"): Case => ({
    name: `three-layer classifier, ${mode}`,
    program: classifier(mode),
    batch: 2,
    seqLen: 333,
    limit: (backend) => MODEL_LIMIT[backend],
  });
  const timesteps = Float32Array.from({ length: 300 }, (_, i) => ((7 * i) % 31) / 8);
  return [
    layer(17, 33, 0.9999, 2, 2000),
    layer(64, 48, 0.999, 1, 512),
    layer(3, 1, 0.5, 3, 65),
    layer(9, 11, 0.999, 1, 300, timesteps),
    model("mean"),
    model("max"),
  ];
}

/** Three blocks with every kind of stage, weights from the seeded generator. */
function classifier(mode: "mean" | "max"): Program {
  const [width, classes] = [12, 5];
  const stages: Stage[] = [];
  const floats = (length: number, seed: number) => initLru({ dModel: length, dState: 1, seed }).D;
  const dense = (name: string, src: number, dst: number, inWidth: number, outWidth: number, seed: number) => {
    const kernel = floats(inWidth * outWidth, seed).map((v) => v / Math.sqrt(inWidth));
    stages.push({
      kind: "dense",
      name,
      src,
      dst,
      inWidth,
      outWidth,
      kernel,
      bias: floats(outWidth, seed + 1),
    });
  };
  const ones = new Float32Array(width).fill(1);
  const bias = floats(width, 5);
  stages.push({
    kind: "embedding",
    name: "embedding",
    src: 0,
    dst: 6,
    width: 2,
    vocabulary: 9,
    table: floats(18, 3),
  });
  dense("encoder", 6, 1, 2, width, 10);
  for (const block of [0, 1, 2]) {
    const name = `block ${block}`;
    const norm = { name, src: 1, dst: 2, width, scale: ones, bias };
    if (block === 0) stages.push({ ...norm, kind: "layerNorm", epsilon: 1e-6 });
    else if (block === 1) stages.push({ ...norm, kind: "rmsNorm", epsilon: 1e-5 });
    else stages.push({ ...norm, kind: "batchNorm", mean: bias, variance: ones, epsilon: 1e-5 });
    const params = initLru({ dModel: width, dState: 9, rMin: 0.9, rMax: 0.999, seed: 20 + block });
    stages.push({ kind: "lru", name, src: 2, dst: 3, dModel: width, dState: 9, params });
    stages.push({ kind: "gelu", name, src: 3, dst: 3, width, exact: block > 0 });
    dense(name, 3, 2, width, width, 30 + block);
    dense(name, 3, 4, width, width, 40 + block);
    stages.push({ kind: "glu", name, src: 2, gate: 4, dst: 2, width, silu: block > 0 });
    stages.push({ kind: "add", name, src: 1, other: 2, dst: 1, width });
  }
  stages.push({ kind: "pool", name: "pool", src: 1, dst: 2, width, mode });
  dense("decoder", 2, 5, width, classes, 50);
  stages.push({ kind: "logSoftmax", name: "softmax", src: 5, dst: 5, width: classes, group: classes });
  return { architecture: "self-test", slots: [1, width, width, width, width, classes, 2], stages, output: 5 };
}

function input(program: Program, tokens: number): Float32Array {
  const ids = vocabularyOf(program);
  if (ids === undefined) return wave(tokens * inputWidth(program));
  return new Float32Array(Int32Array.from({ length: tokens }, (_, i) => i % ids).buffer);
}

/** A signal with slow and fast parts, the same everywhere: no generator, no randomness. */
function wave(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * 0.7) + 0.5 * Math.sin(i * i * 0.013) + 0.2);
}

/** max |y - expected| / max |expected|; NaN anywhere gives NaN, which passes no limit. */
export function relativeError(y: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((y[i] as number) - (expected[i] as number));
    if (!(difference <= error)) error = difference;
    if (Number.isNaN(error)) return error;
    scale = Math.max(scale, Math.abs(expected[i] as number));
  }
  return scale === 0 ? error : error / scale;
}

/** The README's promise: twice what a plain float32 recurrence is off by on this input, and never less than 8 units of 2^-24. */
export function linearLimit(
  params: LruParams,
  x: Float32Array,
  batch: number,
  seqLen: number,
  state?: State,
  timesteps?: Float32Array,
): number {
  const program = programOf(params, "lru");
  const expected = runReference(program, { x, batch, seqLen, timesteps, ...(state ? { state } : {}) }).y;
  return Math.max(
    2 * relativeError(sequentialFloat32(params, x, batch, seqLen, state, timesteps), expected),
    8 * 2 ** -24,
  );
}

/** The recurrence as anybody would write it, every operation rounded to float32: the yardstick, not a backend. */
export function sequentialFloat32(
  params: LruParams,
  x: Float32Array,
  batch: number,
  seqLen: number,
  state?: State,
  timesteps?: Float32Array,
): Float32Array {
  const [dModel, dState] = [params.D.length, params.nuLog.length];
  const B = normalizedB(params);
  const eigen = eigenvalues(params);
  const y = new Float32Array(x.length);
  const round = Math.fround;
  for (let row = 0; row < batch; row++) {
    const slot = state?.layout.slots[0];
    const initial = state && slot ? state.read(slot, row) : undefined;
    const re = Float32Array.from({ length: dState }, (_, n) => initial?.re[n] ?? 0);
    const im = Float32Array.from({ length: dState }, (_, n) => initial?.im[n] ?? 0);
    for (let t = 0; t < seqLen; t++) {
      const at = (row * seqLen + t) * dModel;
      const delta = timesteps?.[row * seqLen + t] ?? 1;
      for (let n = 0; n < dState; n++) {
        let [bre, bim] = [0, 0];
        for (let k = 0; k < dModel; k++) {
          bre = round(bre + round((B.re[n * dModel + k] as number) * (x[at + k] as number)));
          bim = round(bim + round((B.im[n * dModel + k] as number) * (x[at + k] as number)));
        }
        const [lr, li] = [round(powerRe(eigen, n, delta)), round(powerIm(eigen, n, delta))];
        const [hr, hi] = [re[n] as number, im[n] as number];
        re[n] = round(round(lr * hr) - round(li * hi)) + bre;
        im[n] = round(round(lr * hi) + round(li * hr)) + bim;
      }
      for (let o = 0; o < dModel; o++) {
        let sum = 0;
        for (let n = 0; n < dState; n++) {
          const cr = round((params.CRe[o * dState + n] as number) * (re[n] as number));
          const ci = round((params.CIm[o * dState + n] as number) * (im[n] as number));
          sum = round(sum + round(cr - ci));
        }
        y[at + o] = round(sum + round((params.D[o] as number) * (x[at + o] as number)));
      }
    }
  }
  return y;
}
