/** A forward as it is asked for: what it is given, checked before any side effect, and each option read once. */
import type { ForwardJob } from "../backend.js";
import type { Prepared } from "../engine/host.js";
import { LinrecError } from "../errors.js";
import { type Input, poolOf } from "../program.js";
import { checkPortBackend, countOf, type GpuBuffer, portsOf } from "../runtime/gpuBuffer.js";
import { State } from "../state.js";
import { Timeline } from "../timeline.js";
import { checkChoice, checkCount, checkFunction, checkOptions, holding, viewOf } from "../validate.js";
import { type AnyCache, checkCache } from "./cache.js";
import {
  type BackendOption,
  callBack,
  checkBackendOption,
  checkLengths,
  checkSignal,
  checkTimesteps,
  type ForwardOptions,
  forwardOptionNames,
  readResets,
} from "./forwardOptions.js";
import type { Inputs } from "./inputs.js";

/** The layer or model that is asked. */
export interface Reader {
  /** Whose states must be. */
  readonly owner: object;
  readonly prepared: Prepared;
  readonly inputs: Inputs;
}

/** What every way of reading has. */
export type Start<Cache> = Pick<ForwardOptions<Cache>, "batch" | "state" | "lengths" | "signal">;

/** x as backends take it, and its shape. */
export interface Checked {
  readonly values: Float32Array;
  readonly batch: number;
  readonly seqLen: number;
  readonly lengths: Int32Array;
}

export interface Forward {
  readonly job: Omit<ForwardJob, "threads"> & { intact(): void };
  readonly backend: BackendOption | undefined;
  /** What the caller gets: job.y may be a view of it. */
  readonly y: Float32Array;
  /** So many of its values are outputs. */
  readonly count: number;
}

/** @param goesOn more of the sequence comes: there may be nothing to pool yet, and past its last output y holds nothing */
export function checkForward<Cache extends AnyCache>(
  reader: Reader,
  x: Input | GpuBuffer,
  options: ForwardOptions<Cache, Float32Array | GpuBuffer>,
  goesOn: boolean,
): Forward {
  const { inputs, prepared } = reader;
  checkOptions("forward's options", options, forwardOptionNames);
  // Each is read once: a getter may give something else the next time.
  const { batch: rows, state, lengths: some, integrationTimesteps: times, reset, every = 1 } = options;
  const { out, backend, signal, onProgress, transfer = false } = options;
  const ports = portsOf(x, out);
  if (ports) inputs.checkOneProgram("a GPUBuffer");
  if (state !== undefined) inputs.checkStreams("go on from a state");
  const start = { batch: rows, state, lengths: some, signal };
  const { values, batch, seqLen, lengths } = checkInput(reader, x as Input, start, ports?.x);
  inputs.checkPooled(lengths);
  const timesteps = times === undefined ? times : checkTimesteps(times, lengths, seqLen);
  inputs.checkEvery(every);
  const initial = startOf(reader, state, batch);
  const outputs = inputs.outputs(initial, seqLen, every);
  const y = inputs.output([values, timesteps], batch, outputs, out);
  const written = out ? viewOf(y) : y;
  const resets = readResets(reset, lengths, seqLen, initial);
  if (!goesOn) inputs.checkWindows(initial, seqLen, resets);
  if (state && !timesteps)
    inputs.checkUntimed(initial, batch, (row) => (lengths[row] === 0 || resets?.[row]?.[0] === 0 ? -1 : row));
  checkFunction("onProgress", onProgress);
  checkChoice("transfer", transfer, [true, false]);
  if (backend !== undefined) checkBackendOption(backend);
  if (ports) checkPortBackend(backend);
  const total = batch * seqLen;
  const report = onProgress && ((done: number) => callBack("onProgress", onProgress, { done, total }));
  const job = {
    batch,
    seqLen,
    lengths,
    timesteps,
    x: values,
    y: written,
    intact: holding(values, written, timesteps),
    ports,
    state: initial,
    resets,
    every,
    signal,
    onProgress: report,
  };
  const isPart = goesOn && !poolOf(prepared.program);
  const count = isPart ? new Timeline(job).outputs(0, seqLen) * inputs.outputWidth : y.length;
  return { job, backend, y, count };
}

/** Checks x, its shape, what it starts from, and what stops it. */
export function checkInput<Cache extends AnyCache>(
  { owner, inputs }: Reader,
  x: Input,
  options: Start<Cache>,
  port?: GpuBuffer,
): Checked {
  const { batch: rows, state, lengths: given, signal } = options;
  checkSignal(signal);
  if (state !== undefined) checkCache<Cache>("state", state, owner);
  const batch = rows === undefined ? (state?.batch ?? 1) : rows;
  checkCount("batch", batch, 0);
  const values = viewOf(inputs.values("x", x, port !== undefined));
  const seqLen = inputs.seqLen(countOf(port ?? x), batch);
  const lengths = checkLengths(given, batch, seqLen);
  if (!port) inputs.checkValues("x", x, seqLen, lengths);
  return { values, batch, seqLen, lengths };
}

/** What a forward starts from: a private copy, so that a state that is passed in is never changed. */
export function startOf({ prepared }: Reader, state: AnyCache | undefined, batch: number): State {
  if (state === undefined) return new State(prepared.layout, batch);
  state.checkFree();
  if (state.batch !== batch) {
    throw new LinrecError(
      "shape-mismatch",
      `state has ${state.batch} rows; batch is ${batch}. They must be the same.`,
    );
  }
  return state.state.clone();
}
