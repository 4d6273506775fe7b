/**
 * The verbs that a bare layer and a whole model share: forward, step, stepSync, allocateInferenceCache, and state files.
 * Arguments are checked here, before any side effect; the engine behind decides where the work runs.
 */
import { type Memory, memoryOf } from "./analysis.js";
import type { ForwardJob, Runner } from "./backend.js";
import type { AnyCache } from "./cache.js";
import { describeProgram } from "./describe.js";
import { allocating, LinrecError, messageOf } from "./errors.js";
import { fingerprint } from "./io/fingerprint.js";
import { decodeState, encodeState } from "./io/state.js";
import { typeName } from "./io/tensor.js";
import {
  type BackendName,
  type Input,
  inputWidth,
  lruStages,
  type Network,
  outputWidth,
  poolOf,
  vocabularyOf,
} from "./program.js";
import { partsOf, shortestOf } from "./rates.js";
import type { Plan, Verb } from "./scheduler.js";
import { type Stop, throwIfAborted } from "./signal.js";
import { State, type StateLayout, stateLayout } from "./state.js";
import { Feed, readThrough, type StreamChunk, type StreamSource, transformThrough } from "./stream.js";
import { outputsOf } from "./timeline.js";
import {
  checkChoice,
  checkCount,
  checkFinite,
  checkFloat32,
  checkFunction,
  checkInt32,
  checkOptions,
  show,
} from "./validate.js";

export type BackendOption = "auto" | BackendName | readonly BackendName[];

/** Tokens read so far, of all the rows together. */
export interface Progress {
  readonly done: number;
  readonly total: number;
}

export interface ForwardOptions<Cache> {
  /** Rows of x (those of `state`, else 1). seqLen follows from the length of x. */
  batch?: number;
  /** Where each row starts from: a cache of this layer or model, of the same batch. It is not changed. Zeros if left out. */
  state?: Cache | undefined;
  /**
   * [batch] tokens to read of each row, 0 <= length <= seqLen; the outputs past a length are 0. seqLen if left out.
   * A model that pools wants at least one of each row.
   */
  lengths?: ArrayLike<number> | undefined;
  /**
   * [batch, seqLen] how far each token is from the one before it, finite and at least 0; all 1 if left out. Every LRU
   * layer's lambda becomes lambda^Delta for the token. The GPU takes up to 1024 different values (`unsupported`).
   */
  integrationTimesteps?: Float32Array | undefined;
  /**
   * [batch, seqLen]: where it is true or not 0, the row's state is zeroed before that token, as if a new sequence began
   * there: several documents or episodes in one row. A pooling model gives the pooled row of the last of them.
   */
  reset?: ArrayLike<number | boolean> | undefined;
  /**
   * Only every k-th output is computed (1): those at tokens k, 2k, ... of each row, counted on from its state (see
   * `tokens` of a cache) and anew from a reset. y is [batch, outputs, outputWidth] with as many outputs as the row gives
   * that gives most without resets: floor((tokens + seqLen) / k) - floor(tokens / k). A row that gives fewer ends in zeros.
   */
  every?: number | undefined;
  /** Where to write y: Float32Array of just its size, not overlapping x. A new array if left out. */
  out?: Float32Array | undefined;
  /** For this call: a name is a demand, a list or "auto" falls back. The engine's own setting if left out. */
  backend?: BackendOption | undefined;
  /** Stops the work: the promise rejects with `aborted` at once. */
  signal?: AbortSignal | undefined;
  /** Allows x to be detached, where that saves a copy. Nothing does at present: x stays as it is. */
  transfer?: boolean | undefined;
  /** Called now and then while the work goes on. If it throws, the work stops: the promise rejects with `aborted`. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

export interface StreamOptions<Cache> {
  /** Where the sequence starts from: a cache of batch 1. It is not changed. Zeros if left out. */
  state?: Cache | undefined;
  /** Tokens of each result but the last. If left out, each chunk is answered as it comes, in pieces of a megabyte at most. */
  tokens?: number | undefined;
  /** As in {@link ForwardOptions}: for each piece. */
  backend?: BackendOption | undefined;
  /** Ends the stream: the next result rejects with `aborted` at once, and the source is closed. */
  signal?: AbortSignal | undefined;
}

export interface StepOptions {
  /** Where to write yt; a new array if left out. */
  out?: Float32Array | undefined;
  /** [batch] as in {@link ForwardOptions}. */
  integrationTimesteps?: Float32Array | undefined;
  /** [batch]: where it is true or not 0, the stream's state is zeroed before the token. */
  reset?: ArrayLike<number | boolean> | undefined;
}

export interface ForwardResult<Cache> {
  /** [batch, seqLen, outputWidth] (`every`: [batch, outputs, outputWidth]), or [batch, outputWidth] of a model that pools */
  readonly y: Float32Array;
  /** The state after each row's last token, for `forward` or `step` to go on from. */
  readonly state: Cache;
}

/** A program in the hands of an engine. */
export interface Prepared {
  readonly program: Network;
  /** What runs it, by backend: made when first wanted. */
  readonly runners: Map<BackendName, Promise<Runner>>;
  /** Runs single tokens on the calling thread. */
  readonly stepper: Stepper;
  /** Work that has not settled yet, by what stops it. */
  readonly underWay: Map<Stop, Promise<unknown>>;
}

export interface Stepper {
  /** x [batch, inputWidth], token ids as their bits -> y [batch, outputWidth], advancing `state` in place. */
  step(x: Float32Array, y: Float32Array, state: State, timesteps?: Float32Array): void;
}

/** The engine, as far as a layer needs it. */
export interface Host {
  readonly nonFinite: "propagate" | "reject";
  checkUsable(): void;
  plan(verb: Verb, program: Network, batch: number, seqLen: number): Plan;
  /** Runs a forward where the plan says, and on what is next if that fails and may. Fulfils with the final state. */
  forward(
    prepared: Prepared,
    job: Omit<ForwardJob, "threads">,
    option: BackendOption | undefined,
  ): Promise<State>;
  /** Rejects the program's work under way, and frees its runners when that has settled. */
  release(prepared: Prepared): void;
}

const forwardOptionNames = [
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

const streamOptionNames = ["state", "tokens", "backend", "signal"];

/** Tokens of the sequence that {@link Recurrent.backend} speaks of. */
const TYPICAL_SEQ_LEN = 4096;

type Start<Cache> = Pick<ForwardOptions<Cache>, "batch" | "state" | "lengths">;

/** x as backends take it, and its shape. */
interface Checked {
  readonly values: Float32Array;
  readonly batch: number;
  readonly seqLen: number;
  readonly lengths: Int32Array;
}

export abstract class Recurrent<Cache extends AnyCache> {
  /** Features of one token of x; 1 where x are token ids. */
  readonly inputWidth: number;
  /** Features of one token of y (of one sequence's y, for a model that pools). */
  readonly outputWidth: number;
  /** @internal */
  readonly program: Network;
  /** How many token ids there are, 0 to vocabulary - 1, for a model that reads ids; undefined for one that reads features. */
  readonly vocabulary: number | undefined;
  readonly #host: Host;
  readonly #prepared: Prepared;
  readonly #layout: StateLayout;
  #fingerprint: string | undefined;
  #disposed = false;

  /** @internal Use `engine.lru` or `engine.model`. */
  constructor(host: Host, prepared: Prepared) {
    this.#host = host;
    this.#prepared = prepared;
    this.program = prepared.program;
    this.inputWidth = inputWidth(prepared.program);
    this.outputWidth = outputWidth(prepared.program);
    this.vocabulary = vocabularyOf(prepared.program);
    this.#layout = stateLayout(prepared.program);
  }

  protected abstract wrap(state: State): Cache;

  protected memories(): Memory[] {
    return lruStages(this.program).map(memoryOf);
  }

  /** What it is made of, as a table for a console: stages, shapes, parameters, flops a token, and their sums. */
  describe(): string {
    return describeProgram(this.program);
  }

  /** The backend that `forward` would run one sequence of 4096 tokens on; {@link explain} has the rest. */
  get backend(): BackendName {
    return this.#host.plan("forward", this.program, 1, TYPICAL_SEQ_LEN).backend;
  }

  /** What would run a forward of [batch, seqLen], or a step of `batch` streams, why, and each candidate's predicted cost. */
  explain(verb: Verb, problem: { batch?: number; seqLen?: number } = {}): Plan {
    this.checkUsable();
    checkChoice("verb", verb, ["forward", "step"]);
    checkOptions("problem", problem, ["batch", "seqLen"]);
    const { batch = 1, seqLen = 1 } = problem;
    checkCount("batch", batch, 0);
    checkCount("seqLen", seqLen, 0);
    if (verb === "step") this.#checkStreams(verb);
    return this.#host.plan(verb, this.program, batch, seqLen);
  }

  /**
   * Reads whole sequences: x [batch, seqLen, inputWidth] float32 -> y [batch, seqLen, outputWidth], or [batch,
   * outputWidth] of a model that pools, and the state after the last token. A model with a `vocabulary` reads token ids:
   * x Int32Array [batch, seqLen], checked as far as each row is read.
   *
   * Rejects with `shape-mismatch`, `wrong-dtype`, `detached`, `invalid-argument`, `non-finite`, `foreign-cache` before
   * any work is done, and with `aborted`, `disposed`, `backend-unavailable`, `gpu-failed`, `worker-failed`, `timeout`,
   * `out-of-memory` later.
   */
  async forward(x: Input, options: ForwardOptions<Cache> = {}): Promise<ForwardResult<Cache>> {
    return this.#forward(x, options, false);
  }

  /** @param goesOn more of the sequence comes: that there is nothing to pool yet is no fault */
  async #forward(x: Input, options: ForwardOptions<Cache>, goesOn: boolean): Promise<ForwardResult<Cache>> {
    this.checkUsable();
    checkOptions("forward's options", options, forwardOptionNames);
    const { signal, onProgress, every = 1 } = options;
    if (options.state !== undefined) this.#checkStreams("go on from a state");
    const { values, batch, seqLen, lengths } = this.checkInput(x, options);
    this.#checkPooled(lengths);
    const timesteps = options.integrationTimesteps;
    if (timesteps !== undefined) {
      checkTimesteps(timesteps, lengths, seqLen);
      this.#checkOneRate("integrationTimesteps");
    }
    this.#checkEvery(every);
    const initial = this.#initialState(options.state, batch);
    const y = this.#output(values, batch, this.#outputs(initial, seqLen, every), options.out);
    const resets = readResets(options.reset, lengths, seqLen, initial);
    if (options.reset !== undefined) this.#checkOneRate("reset");
    if (!goesOn) this.#checkWindows(initial, seqLen);
    checkFunction("onProgress", onProgress);
    checkSignal(signal);
    if (options.backend !== undefined) checkBackendOption(options.backend);
    throwIfAborted(signal);
    const total = batch * seqLen;
    const report = onProgress && ((done: number) => callBack(onProgress, { done, total }));
    const job = {
      batch,
      seqLen,
      lengths,
      timesteps,
      x: values,
      y,
      state: initial,
      resets,
      every,
      signal,
      onProgress: report,
    };
    const state = total === 0 ? initial : await this.#host.forward(this.#prepared, job, options.backend);
    return { y, state: this.wrap(state) };
  }

  /**
   * Reads one sequence as it comes, in constant memory: chunks of float32 [tokens, inputWidth] or int32 ids, cut anywhere -> for each
   * piece y [tokens, outputWidth] (what a model that pools says so far: [outputWidth]) and the state after it. Joined, the
   * pieces are one forward, on the CPU bit for bit. The source is read only when a result is awaited, and closed when the
   * loop is left.
   *
   * Throws what `forward` rejects with before any work; a result rejects with `shape-mismatch` if the source ends within
   * a token, `wrong-dtype` and `detached` for chunks, what `forward` rejects with later, and what the source throws.
   */
  forwardStream(
    source: StreamSource,
    options: StreamOptions<Cache> = {},
  ): AsyncGenerator<ForwardResult<Cache>, void> {
    return readThrough(source, this.#feed(options), options.signal);
  }

  /** {@link forwardStream} as a link of a chain: `body.pipeThrough(model.forwardTransform())`. */
  forwardTransform(options: StreamOptions<Cache> = {}): TransformStream<StreamChunk, ForwardResult<Cache>> {
    return transformThrough(this.#feed(options));
  }

  /**
   * Reads one token of each stream, on the calling thread, at once: xt [cache.batch, inputWidth] or ids -> yt [cache.batch,
   * outputWidth], advancing `cache` in place. On the CPU it gives what `forward` gives, bit for bit. A model that pools
   * gives what it makes of the tokens so far: NaN until its first window of tokens is full, where it pools in windows.
   * Throws with `unsupported` for a model that cannot be stepped, for it reads tokens ahead.
   */
  stepSync(xt: Input, cache: Cache, options: StepOptions = {}): Float32Array {
    const { x, y } = this.#checkStep(xt, cache, options);
    cache.checkFree();
    resetRows(cache.state, options.reset);
    if (cache.batch > 0) this.#prepared.stepper.step(x, y, cache.state, options.integrationTimesteps);
    return y;
  }

  /** The same numbers as {@link stepSync}; runs on the GPU where that was asked for or is faster. */
  async step(xt: Input, cache: Cache, options: StepOptions = {}): Promise<Float32Array> {
    const { x, y } = this.#checkStep(xt, cache, options);
    const { batch } = cache;
    if (batch === 0 || this.#host.plan("step", this.program, batch, 1).backend !== "webgpu")
      return this.stepSync(xt, cache, { ...options, out: y });
    return cache.whileLocked(async () => {
      const lengths = new Int32Array(batch).fill(1);
      const state = cache.state.clone();
      resetRows(state, options.reset);
      const job = {
        batch,
        seqLen: 1,
        lengths,
        timesteps: options.integrationTimesteps,
        x,
        y,
        state,
        signal: undefined,
        onProgress: undefined,
      };
      cache.state.copyFrom(await this.#host.forward(this.#prepared, job, undefined));
      return y;
    });
  }

  /** Checks a step's arguments; gives x as the backends take it, and the array to write to. */
  #checkStep(xt: Input, cache: Cache, options: StepOptions): { x: Float32Array; y: Float32Array } {
    this.checkUsable();
    this.#checkStreams("step");
    this.#checkCache("cache", cache);
    const x = this.#checkToken(xt, cache.batch);
    checkOptions("step's options", options, ["out", "integrationTimesteps", "reset"]);
    const { out, integrationTimesteps, reset } = options;
    const size = cache.batch * this.outputWidth;
    if (out !== undefined) this.#checkOut(out, x, cache.batch, size);
    if (integrationTimesteps !== undefined) {
      checkTimesteps(integrationTimesteps, new Int32Array(cache.batch).fill(1), 1);
      this.#checkOneRate("integrationTimesteps");
    }
    checkReset(reset, cache.batch, "[batch]");
    return { x, y: out ?? new Float32Array(size) };
  }

  /** A cache of zeros for `batch` streams (1). */
  allocateInferenceCache(batch = 1): Cache {
    this.checkUsable();
    checkCount("batch", batch, 0);
    this.#checkStreams("step");
    return this.wrap(new State(this.#layout, batch));
  }

  /** A state as bytes (a .safetensors file), with its version and this model's fingerprint. Every bit is kept. */
  serializeState(state: Cache): Uint8Array<ArrayBuffer> {
    this.checkUsable();
    this.#checkCache("state", state);
    state.checkFree();
    return encodeState(state.state, this.#owner());
  }

  /** The way back. Throws `foreign-cache` if the state is another model's, `malformed-file` if it is none. */
  deserializeState(bytes: ArrayBufferLike | ArrayBufferView): Cache {
    this.checkUsable();
    return this.wrap(decodeState(bytes, this.#layout, this.#owner()));
  }

  /** Frees what the engine holds for it. Work under way rejects with `disposed`. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#host.release(this.#prepared);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  #feed(options: StreamOptions<Cache>): Feed<ForwardResult<Cache>> {
    this.checkUsable();
    this.#checkStreams("read a stream");
    checkOptions("forwardStream's options", options, streamOptionNames);
    const { tokens, backend, signal } = options;
    if (options.state !== undefined) this.#checkCache("state", options.state);
    let state = this.wrap(this.#initialState(options.state, 1));
    if (tokens !== undefined) checkCount("tokens", tokens, 1);
    if (backend !== undefined) checkBackendOption(backend);
    checkSignal(signal);
    return new Feed(
      this.vocabulary === undefined ? Float32Array : Int32Array,
      this.inputWidth,
      tokens,
      async (x) => {
        const result = await this.#forward(x, { state, backend, signal }, true);
        state = result.state;
        return result;
      },
    );
  }

  #owner() {
    this.#fingerprint ??= fingerprint(this.program);
    return { fingerprint: this.#fingerprint, architecture: this.program.architecture };
  }

  protected checkUsable(): void {
    this.#host.checkUsable();
    if (this.#disposed)
      throw new LinrecError(
        "disposed",
        `This ${this.program.architecture} has been disposed of. Make a new one.`,
      );
  }

  #seqLen(x: Input, batch: number): number {
    const token = batch * this.inputWidth;
    const seqLen = batch === 0 ? 0 : Math.floor(x.length / token);
    if (seqLen * token !== x.length) {
      const whole = (seqLen + 1) * token;
      const needs =
        batch === 0
          ? "batch 0 needs 0"
          : `batch ${batch} x seqLen x ${this.inputWidth} features needs a multiple of ${token}, such as ${whole}`;
      throw new LinrecError(
        "shape-mismatch",
        `x has ${x.length} values; ${needs}. Pass \`batch\` if it is not ${batch}.`,
      );
    }
    return seqLen;
  }

  /** Checks x, its shape, and what it starts from. */
  protected checkInput(x: Input, options: Start<Cache>): Checked {
    const { batch: rows, state, lengths: given } = options;
    if (state !== undefined) this.#checkCache("state", state);
    const batch = rows === undefined ? (state?.batch ?? 1) : rows;
    checkCount("batch", batch, 0);
    const values = this.#values("x", x);
    const seqLen = this.#seqLen(x, batch);
    const lengths = checkLengths(given, batch, seqLen);
    this.#checkValues("x", x, seqLen, lengths);
    return { values, batch, seqLen, lengths };
  }

  /** x as backends take it: the bits of ids are those of a Float32Array. */
  #values(name: string, x: Input): Float32Array {
    if (this.vocabulary === undefined) {
      checkFloat32(name, x);
      return x;
    }
    checkInt32(name, x);
    return new Float32Array(x.buffer, x.byteOffset, x.length);
  }

  /** Throws for ids that are none, in what is read of each row; for infinities and NaN, if they are to be refused. */
  #checkValues(name: string, x: Input, seqLen: number, lengths?: Int32Array): void {
    const ids = this.vocabulary;
    if (ids === undefined) {
      if (this.#host.nonFinite === "reject") checkFinite(name, x as Float32Array);
      return;
    }
    for (let i = 0; i < x.length; i++) {
      const id = x[i] as number;
      if (id >= 0 && id < ids) continue;
      const [row, t] = [Math.floor(i / seqLen), i % seqLen];
      if (lengths && t >= (lengths[row] as number)) continue;
      throw new LinrecError(
        "invalid-argument",
        `${name}[${i}] (row ${row}, token ${t}) is ${id}; token ids are 0 to ${ids - 1}.`,
      );
    }
  }

  #checkToken(xt: Input, batch: number): Float32Array {
    const values = this.#values("xt", xt);
    const expected = batch * this.inputWidth;
    if (xt.length !== expected) {
      throw new LinrecError(
        "shape-mismatch",
        `xt has ${xt.length} values; one token for each of the cache's ${batch} streams x ${this.inputWidth} features needs ${expected}.`,
      );
    }
    this.#checkValues("xt", xt, 1);
    return values;
  }

  #checkPooled(lengths: Int32Array): void {
    if (!poolOf(this.program)) return;
    const empty = lengths.indexOf(0);
    if (empty < 0) return;
    throw new LinrecError(
      "invalid-argument",
      `row ${empty} has no token, and this model pools over time: there is nothing to pool. Give every row at least one token.`,
    );
  }

  #checkOneRate(option: string): void {
    if (partsOf(this.program)[0] === this.program) return;
    throw new LinrecError(
      "unsupported",
      `${this.program.architecture} with these options changes the rate of its tokens, and cannot take ${option}. Leave it out.`,
    );
  }

  /** A network that joins rows to one and takes them apart again gives nothing until it has read all of them. */
  #checkStreams(what: string): void {
    if (!this.program.stages.some(({ kind }) => kind === "reshape")) return;
    throw new LinrecError(
      "unsupported",
      `${this.program.architecture} cannot ${what}: its outputs depend on tokens that come later. Pass whole sequences to forward.`,
    );
  }

  #checkWindows(initial: State, seqLen: number): void {
    const least = shortestOf(this.program);
    if (seqLen === 0 || least === 1) return;
    const short = initial.count.findIndex((count) => count + seqLen < least);
    if (short < 0) return;
    const before = initial.count[short] ? `, after ${initial.count[short]} before` : "";
    throw new LinrecError(
      "invalid-argument",
      `x has ${seqLen} tokens a row${before} (row ${short}); this model pools windows of windows, and needs ${least} for its first output. Give longer sequences, or read these with step.`,
    );
  }

  #checkEvery(every: number): void {
    checkCount("every", every, 1);
    if (every > 1 && poolOf(this.program)) {
      throw new LinrecError(
        "unsupported",
        `every is ${every}, and this model pools over time: it has one output for each row. Leave \`every\` out.`,
      );
    }
    if (every > 1) this.#checkOneRate("every");
  }

  /** Rows of y for each row of x. */
  #outputs({ count }: State, seqLen: number, every: number): number {
    if (poolOf(this.program)) return 1;
    return count.reduce((most, tokens) => Math.max(most, outputsOf(tokens, seqLen, every)), 0);
  }

  #output(x: Float32Array, batch: number, outputs: number, out: Float32Array | undefined): Float32Array {
    const size = batch * outputs * this.outputWidth;
    if (out === undefined) return allocating("y", () => new Float32Array(size));
    this.#checkOut(out, x, batch, size);
    return out;
  }

  #checkOut(out: Float32Array, x: Float32Array, batch: number, size: number): void {
    checkFloat32("out", out);
    if (out.length !== size) {
      throw new LinrecError(
        "shape-mismatch",
        `out has ${out.length} values; y has ${size}: batch ${batch} x ${size / (batch * this.outputWidth) || 0} outputs x ${this.outputWidth} features.`,
      );
    }
    const apart =
      out.byteOffset + out.byteLength <= x.byteOffset || x.byteOffset + x.byteLength <= out.byteOffset;
    if (out.buffer === x.buffer && !apart) {
      throw new LinrecError(
        "invalid-argument",
        "out and x overlap in memory: y would be written over x while it is read. Use two arrays.",
      );
    }
  }

  /** What a forward from `state` starts from: a copy. Throws what `forward` rejects with for a wrong one. */
  protected startOf(state: Cache | undefined, batch: number): State {
    if (state !== undefined) this.#checkCache("state", state);
    return this.#initialState(state, batch);
  }

  /** A private copy, so that a state that is passed in is never changed. */
  #initialState(state: Cache | undefined, batch: number): State {
    if (state === undefined) return new State(this.#layout, batch);
    state.checkFree();
    if (state.batch !== batch) {
      throw new LinrecError(
        "shape-mismatch",
        `state has ${state.batch} rows; batch is ${batch}. They must be the same.`,
      );
    }
    return state.state.clone();
  }

  #checkCache(name: string, cache: unknown): asserts cache is Cache {
    const owner = (cache as Partial<AnyCache> | null | undefined)?.owner;
    if (owner === undefined) {
      throw new LinrecError(
        "invalid-argument",
        `${name} must come from allocateInferenceCache or a forward; got ${show(cache)}.`,
      );
    }
    if (owner !== this) {
      throw new LinrecError(
        "foreign-cache",
        `${name} belongs to another layer or model. Use one of this model's own.`,
      );
    }
  }
}

/** An error of the caller's own ends the forward, and is no backend's fault. */
function callBack(onProgress: (progress: Progress) => void, progress: Progress): void {
  try {
    onProgress(progress);
  } catch (cause) {
    throw new LinrecError("aborted", `The forward was stopped: onProgress threw ${messageOf(cause)}.`, {
      cause,
    });
  }
}

/** [batch] int32, each 0..seqLen */
function checkLengths(lengths: ArrayLike<number> | undefined, batch: number, seqLen: number): Int32Array {
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
  for (let row = 0; row < batch; row++) {
    const length = lengths[row] as number;
    if (!Number.isInteger(length) || length < 0 || length > seqLen) {
      throw new LinrecError(
        "invalid-argument",
        `lengths[${row}] is ${show(length)}; it must be an integer from 0 to seqLen, ${seqLen}.`,
      );
    }
  }
  return Int32Array.from(lengths);
}

/** [batch, seqLen] float32, finite and at least 0 for every token that is read */
function checkTimesteps(timesteps: Float32Array, lengths: Int32Array, seqLen: number): void {
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
}

function checkReset(mask: ArrayLike<number | boolean> | undefined, size: number, shape: string): void {
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

function resetRows(state: State, mask: ArrayLike<number | boolean> | undefined): void {
  for (let row = 0; mask && row < state.batch; row++) if (mask[row]) state.resetRow(row);
}

/**
 * The tokens past each row's first before which its state is zeroed, from the mask [batch, seqLen]; what is past the row's
 * length counts for nothing. Undefined if there are none. A reset before the first token is made in `state` at once.
 */
function readResets(
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

function checkSignal(signal: unknown): void {
  if (signal === undefined) return;
  if (typeof (signal as Partial<AbortSignal> | null)?.addEventListener !== "function") {
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
