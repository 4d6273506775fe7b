/** The options of the verbs, and the checks of those that need no model: each error says what came and what to do. */
import { allocating, LinrecError, messageOf } from "../errors.js";
import type { BackendName } from "../program.js";
import type { Preference } from "../scheduler.js";
import type { State } from "../state.js";
import { typeName } from "../tensor.js";
import { checkChoice, checkCount, checkFloat32, show, viewOf } from "../validate.js";

/** "auto", the name of one backend (a demand), or names in order of preference. */
export type BackendOption = "auto" | BackendName | readonly BackendName[];

/** Tokens read so far, of all the rows together. */
export interface Progress {
  /** Tokens that have been read. */
  readonly done: number;
  /** All of them: batch * seqLen. */
  readonly total: number;
}

/** What `forward` takes beside x. */
export interface ForwardOptions<Cache, Y = Float32Array> {
  /** Rows of x (those of `state`, else 1). seqLen follows from the length of x. */
  batch?: number | undefined;
  /** Where each row starts from: a cache of this layer or model, of the same batch. It is not changed. Zeros if left out. */
  state?: Cache | undefined;
  /**
   * [batch] tokens to read of each row, 0 <= length <= seqLen; the outputs past a length are 0. seqLen if left out.
   * A model that pools wants at least one of each row.
   */
  lengths?: ArrayLike<number> | undefined;
  /**
   * [batch, seqLen] how far each token is from the one before it, finite and at least 0; all 1 if left out. Every LRU
   * layer's lambda becomes lambda^Delta for the token. Where the rate changes, time does not: a slower token is as far from
   * the one before it as the mean of those that it stands for. Of a GPU, lambda^Delta is derived on the calling thread, in float64.
   */
  integrationTimesteps?: Float32Array | undefined;
  /**
   * [batch, seqLen] a mask: where it is true or not 0, the row's state is zeroed before that token, as if a new sequence began
   * there: several documents or episodes in one row. A pooling model gives the pooled row of the last of them. Windows and
   * strides start anew there too.
   */
  reset?: ArrayLike<number | boolean> | undefined;
  /**
   * Only every k-th output is computed (1): those at tokens k, 2k, ... of each row, counted on from its state (see
   * `tokens` of a cache) and anew from a reset. y is [batch, outputs, outputWidth] with as many outputs as the row gives
   * that gives most without resets: floor((tokens + seqLen) / k) - floor(tokens / k). A row that gives fewer ends in zeros. A model
   * that pools has one output for each row, and none to leave out (`unsupported`).
   */
  every?: number | undefined;
  /**
   * Where to write y, and what it comes as: a Float32Array of just its size, not overlapping x, or a GPUBuffer. A new array
   * if left out.
   */
  out?: Y | undefined;
  /** For this call: a name is a demand, a list or "auto" falls back. The engine's own setting if left out. */
  backend?: BackendOption | undefined;
  /** Stops the work: the promise rejects with `aborted` at once. `state` is as it was; `out` may be written in part. */
  signal?: AbortSignal | undefined;
  /** Allows x to be detached, where that saves a copy. Nothing does at present: x stays as it is. */
  transfer?: boolean | undefined;
  /** Called now and then while the work goes on. If it throws, the work stops: the promise rejects with `aborted`. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

/** What `forwardStream` and `forwardTransform` take. */
export interface StreamOptions<Cache> {
  /** Where the sequence starts from: a cache of batch 1. It is not changed. Zeros if left out. */
  state?: Cache | undefined;
  /** Tokens of each result but the last. If left out, each chunk is answered as it comes, in pieces of a megabyte at most. */
  tokens?: number | undefined;
  /** As in {@link ForwardOptions}: each result has the outputs that its tokens give, which may be none. */
  every?: number | undefined;
  /** As in {@link ForwardOptions}: for each piece. */
  backend?: BackendOption | undefined;
  /** Ends the stream: the next result rejects with `aborted` at once, and the source is closed. */
  signal?: AbortSignal | undefined;
}

/** What `step`, `stepSync` and `stepMany` take beside the tokens and the cache. */
export interface StepOptions<Y = Float32Array> {
  /** Where to write yt, and what it comes as: an array, or with a {@link GpuCache} a GPUBuffer. A new array if left out. */
  out?: Y | undefined;
  /**
   * The streams to advance, by their rows of the cache: xt [rows.length, inputWidth] has a token for each, in this order, and
   * the others stay as they are. Each row at most once; all of them, in order, if left out.
   */
  rows?: Int32Array | undefined;
  /** [streams] as in {@link ForwardOptions}; of `stepMany` [steps, streams]. */
  integrationTimesteps?: Float32Array | undefined;
  /** [streams] a mask: where it is true or not 0, the stream's state is zeroed before the token; of `stepMany` [steps, streams]. */
  reset?: ArrayLike<number | boolean> | undefined;
}

/** What `forward` resolves to, and each piece of a stream. Y is the type of `out`; without one, y is in ordinary memory. */
export interface ForwardResult<Cache, Y = Float32Array<ArrayBuffer>> {
  /** [batch, seqLen, outputWidth] (`every`: [batch, outputs, outputWidth]), or [batch, outputWidth] of a model that pools */
  readonly y: Y;
  /** The state after each row's last token, for `forward` or `step` to go on from. */
  readonly state: Cache;
}

/** The size of some work, for `explain`. */
export interface ProblemSize {
  /** Rows, or streams (1). */
  batch?: number | undefined;
  /** Tokens of each row (1). */
  seqLen?: number | undefined;
  /** Whether its tokens have timesteps (false), all of them different: they cost more. */
  integrationTimesteps?: boolean | undefined;
}

export const sizeNames = ["batch", "seqLen", "integrationTimesteps"];

export function readSize({ batch = 1, seqLen = 1, integrationTimesteps: timed = false }: ProblemSize) {
  checkCount("batch", batch, 0);
  checkCount("seqLen", seqLen, 0);
  checkChoice("integrationTimesteps", timed, [true, false]);
  return { batch, seqLen, timed: timed ? Number.POSITIVE_INFINITY : 0 };
}

export const forwardOptionNames = [
  "batch",
  "state",
  "lengths",
  "integrationTimesteps",
  "reset",
  "every",
  "out",
  "backend",
  "signal",
  "transfer",
  "onProgress",
];

export const streamOptionNames = ["state", "tokens", "every", "backend", "signal"];

/** Calls a function of the caller's: an error of theirs ends the work, and is no backend's fault. */
export function callBack<Given>(name: string, callback: (given: Given) => void, given: Given): void {
  try {
    callback(given);
  } catch (cause) {
    throw new LinrecError("aborted", `The work was stopped: ${name} threw ${messageOf(cause)}.`, { cause });
  }
}

/** [batch] int32, each 0..seqLen */
export function checkLengths(
  lengths: ArrayLike<number> | undefined,
  batch: number,
  seqLen: number,
): Int32Array {
  if (lengths === undefined) return allocating("lengths", () => new Int32Array(batch).fill(seqLen));
  if (typeof lengths !== "object" || lengths === null || typeof lengths.length !== "number") {
    throw new LinrecError(
      "invalid-argument",
      `lengths must be an array of integers, [batch]; got ${show(lengths)}.`,
    );
  }
  if (lengths.length !== batch) {
    throw new LinrecError(
      "shape-mismatch",
      `lengths has ${lengths.length} values; batch is ${batch}. Give one length for each row.`,
    );
  }
  // Each is read once: what is checked is what is run.
  const checked = allocating("lengths", () => new Int32Array(batch));
  for (let row = 0; row < batch; row++) {
    const length = lengths[row] as number;
    if (!Number.isInteger(length) || length < 0 || length > seqLen) {
      throw new LinrecError(
        "invalid-argument",
        `lengths[${row}] is ${show(length)}; it must be an integer from 0 to seqLen, ${seqLen}.`,
      );
    }
    checked[row] = length;
  }
  return checked;
}

/** [batch, seqLen] float32, finite and at least 0 for every token that is read -> as backends take them */
export function checkTimesteps(timesteps: Float32Array, lengths: Int32Array, seqLen: number): Float32Array {
  const name = "integrationTimesteps";
  checkFloat32(name, timesteps);
  if (timesteps.length !== lengths.length * seqLen) {
    throw new LinrecError(
      "shape-mismatch",
      `${name} has ${timesteps.length} values; batch ${lengths.length} x seqLen ${seqLen} needs one for each token.`,
    );
  }
  for (const [row, length] of lengths.entries()) {
    for (let i = row * seqLen; i < row * seqLen + length; i++) {
      const value = timesteps[i] as number;
      if (value >= 0 && value < Number.POSITIVE_INFINITY) continue;
      throw new LinrecError(
        "invalid-argument",
        `${name}[${i}] is ${value}; it must be finite and at least 0.`,
      );
    }
  }
  return viewOf(timesteps);
}

export function checkReset(mask: ArrayLike<number | boolean> | undefined, size: number, shape: string): void {
  if (mask === undefined) return;
  if (typeof mask !== "object" || mask === null || mask.length !== size) {
    throw new LinrecError(
      "shape-mismatch",
      `reset must be an array ${shape}, ${size} values; got ${show(mask)}${mask?.length >= 0 ? ` of ${mask.length}` : ""}.`,
    );
  }
  for (let i = 0; i < size; i++) {
    const value = mask[i];
    if (typeof value === "boolean" || Number.isFinite(value)) continue;
    throw new LinrecError(
      "invalid-argument",
      `reset[${i}] is ${show(value)}; it must be a number or a boolean.`,
    );
  }
}

export function resetRows(state: State, mask: ArrayLike<number | boolean> | undefined): void {
  for (let row = 0; mask && row < state.batch; row++) if (mask[row]) state.resetRow(row);
}

/**
 * The tokens past each row's first before which its state is zeroed, from the mask [batch, seqLen]; what is past the row's
 * length counts for nothing. Undefined if there are none. A reset before the first token is made in `state` at once.
 */
export function readResets(
  mask: ArrayLike<number | boolean> | undefined,
  lengths: Int32Array,
  seqLen: number,
  state: State,
): Int32Array[] | undefined {
  checkReset(mask, lengths.length * seqLen, "[batch, seqLen]");
  if (mask === undefined) return undefined;
  let some = false;
  const resets = Array.from(lengths, (length, row) => {
    const found: number[] = [];
    for (let t = 0; t < length; t++) {
      if (!mask[row * seqLen + t]) continue;
      if (t > 0) found.push(t);
      else state.resetRow(row);
    }
    some ||= found.length > 0;
    return Int32Array.from(found);
  });
  return some ? resets : undefined;
}

export function checkSignal(signal: unknown): void {
  if (signal === undefined) return;
  for (const method of ["addEventListener", "removeEventListener"] as const) {
    if (typeof (signal as Partial<AbortSignal> | null)?.[method] === "function") continue;
    throw new LinrecError("invalid-argument", `signal must be an AbortSignal; got ${typeName(signal)}.`);
  }
}

export const backendNames: readonly BackendName[] = ["reference", "wasm", "webgpu"];

/** Throws `invalid-argument` for anything but "auto", a backend's name, or a list of names. */
export function checkBackendOption(option: unknown): void {
  if (!Array.isArray(option)) {
    checkChoice("backend", option, ["auto", ...backendNames]);
    return;
  }
  if (option.length === 0)
    throw new LinrecError(
      "invalid-argument",
      'backend is an empty list; name at least one backend, or "auto".',
    );
  for (const name of option) checkChoice("each backend of the list", name, backendNames);
}

/** A list is copied: what is known of it must stay true. */
export function toPreference(option: BackendOption): Preference {
  return option === "auto" ? option : ([option].flat() as BackendName[]);
}
