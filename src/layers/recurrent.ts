/**
 * The verbs that a bare layer and a whole model share: forward, step, stepSync, allocateInferenceCache, and state files.
 * Arguments are checked before any side effect (`forwards.ts`, `steps.ts`); the engine behind decides where the work runs.
 */
import type { Host, Prepared } from "../engine/host.js";
import { allocating, asOutOfMemory, LinrecError } from "../errors.js";
import { fingerprint } from "../io/fingerprint.js";
import { decodeState, encodeState } from "../io/state.js";
import { parts } from "../parts.js";
import { type BackendName, type Input, lruStages, type Network } from "../program.js";
import type { GpuBuffer } from "../runtime/gpuBuffer.js";
import { throwIfAborted } from "../runtime/signal.js";
import type { Plan, Verb } from "../scheduler.js";
import { State } from "../state.js";
import { checkChoice, checkCount, checkOptions } from "../validate.js";
import { type Memory, memoryOf } from "./analysis.js";
import { type AnyCache, checkCache, isGpuCache } from "./cache.js";
import { describeProgram } from "./describe.js";
import {
  checkBackendOption,
  checkSignal,
  type ForwardOptions,
  type ForwardResult,
  type ProblemSize,
  readSize,
  type StepOptions,
  type StreamOptions,
  sizeNames,
  streamOptionNames,
} from "./forwardOptions.js";
import { checkForward, type Reader, startOf } from "./forwards.js";
import type { GpuCache } from "./gpuCache.js";
import { Inputs } from "./inputs.js";
import { checkSteps, type Steps, stepAway, stepHere, stepsOnGpu } from "./steps.js";
import type { Feeding, StreamChunk, StreamSource, StreamTransformer } from "./stream.js";

/** Tokens of the sequence that {@link Recurrent.backend} speaks of. */
const TYPICAL_SEQ_LEN = 4096;

/** Bytes of a stream that are read before they are worked on: enough that waking threads pays, few enough to stay in cache. */
const WINDOW_BYTES = 1 << 20;

/** What layers and models have in common: their verbs. */
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
  readonly #inputs: Inputs;
  protected readonly reader: Reader;
  #fingerprint: string | undefined;
  #disposed = false;

  /** @internal Use `engine.lru` or `engine.model`. */
  constructor(host: Host, prepared: Prepared, inputs = new Inputs(prepared.program, host.nonFinite)) {
    this.#host = host;
    this.#prepared = prepared;
    this.program = prepared.program;
    this.#inputs = inputs;
    this.inputWidth = inputs.inputWidth;
    this.outputWidth = inputs.outputWidth;
    this.vocabulary = inputs.vocabulary;
    this.reader = { owner: this, prepared, inputs };
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

  /**
   * What would run a forward of [batch, seqLen], or a step of `batch` streams, why, and each candidate's predicted cost.
   * Throws `invalid-argument`, `disposed`, `unsupported` for a step of a model that cannot be stepped, and
   * `backend-unavailable` if nothing that the engine was created for runs any more.
   */
  explain(verb: Verb, problem: ProblemSize = {}): Plan {
    this.checkUsable();
    checkChoice("verb", verb, ["forward", "step"]);
    checkOptions("problem", problem, sizeNames);
    const { batch, seqLen, timed } = readSize(problem);
    if (verb === "step") this.#inputs.checkStreams(verb);
    return this.#host.plan(verb, this.program, batch, seqLen, timed);
  }

  /**
   * Reads whole sequences: x [batch, seqLen, inputWidth] float32 -> y [batch, seqLen, outputWidth], or [batch,
   * outputWidth] of a model that pools, and the state after the last token. A model with a `vocabulary` reads token ids:
   * x Int32Array [batch, seqLen], checked as far as each row is read.
   *
   * x and `out` may be GPUBuffers of `engine.gpuDevice`, of just these sizes and with the usage COPY_SRC and COPY_DST: then it
   * runs on the GPU, and they stay there; of usage STORAGE too, they are read and written in place, where they can be. Their values are not checked; an id that is none reads the vocabulary's last row.
   *
   * x, `integrationTimesteps` and `out` are read and written until the promise settles: leave them alone until then. If one
   * of them is detached or made smaller meanwhile, it rejects with `detached`.
   *
   * Rejects with `shape-mismatch`, `wrong-dtype`, `detached`, `invalid-argument`, `non-finite`, `foreign-cache`, `cache-busy`,
   * `unsupported` before any work is done, and with `aborted`, `disposed`, `backend-unavailable`, `gpu-failed`,
   * `worker-failed`, `timeout`, `out-of-memory`, `load-failed` later.
   */
  forward(
    x: Input | GpuBuffer,
    options: ForwardOptions<Cache, GpuBuffer> & { out: GpuBuffer },
  ): Promise<ForwardResult<Cache, GpuBuffer>>;
  forward<Y extends Float32Array = Float32Array<ArrayBuffer>>(
    x: Input | GpuBuffer,
    options?: ForwardOptions<Cache, Y>,
  ): Promise<ForwardResult<Cache, Y>>;
  forward(
    x: Input | GpuBuffer,
    options: ForwardOptions<Cache, Float32Array | GpuBuffer> = {},
  ): Promise<ForwardResult<Cache, never>> {
    return this.#forward(x, options);
  }

  /**
   * One promise. Of more than a token a microtask goes by first, for what stops it in the same turn; then a short forward, which
   * takes microseconds, is done at once. Of a part of a sequence that `goesOn`, y ends with its last output.
   */
  async #forward(
    x: Input | GpuBuffer,
    options: ForwardOptions<Cache, Float32Array | GpuBuffer>,
    goesOn = false,
  ): Promise<ForwardResult<Cache, never>> {
    this.checkUsable();
    const { job, backend, y, count } = checkForward(this.reader, x, options, goesOn);
    if (job.seqLen > 1) await undefined; // it may be done at once: what stops it may come in the same turn
    this.checkUsable();
    throwIfAborted(job.signal);
    const work = job.batch * job.seqLen > 0 && this.#host.forward(this.#prepared, job, backend);
    if (work) {
      await work;
      job.intact();
    }
    const result = job.ports?.y ?? (count < y.length ? y.slice(0, count) : y);
    return { y: result as never, state: this.wrap(job.state) };
  }

  /**
   * Reads one sequence as it comes, in constant memory: chunks of float32 [tokens, inputWidth] or int32 ids, cut anywhere -> for each
   * piece y [tokens, outputWidth] (what a model that pools says so far: [outputWidth]) and the state after it. Joined, the
   * pieces are one forward, on the CPU bit for bit. Chunks `{ x, reset, integrationTimesteps }` say of their tokens what
   * `forward`'s options do. The source is read only when a result is awaited, and closed when the loop is left.
   *
   * Throws what `forward` rejects with before any work; a result rejects with `shape-mismatch` if the source ends within
   * a token or a chunk that must be whole tokens is not, `invalid-argument`, `wrong-dtype` and `detached` for chunks, what
   * `forward` rejects with later, and what the source throws, as `for await` does. The state in a result is the reader's own.
   */
  forwardStream(
    source: StreamSource,
    options: StreamOptions<Cache> = {},
  ): AsyncGenerator<ForwardResult<Cache>, void> {
    const feeding = this.#feeding(options);
    return (async function* () {
      yield* (await parts.stream()).readThrough(source, feeding);
    })();
  }

  /** {@link forwardStream} as a link of a chain: `body.pipeThrough(model.forwardTransform())`. */
  forwardTransform(options: StreamOptions<Cache> = {}): TransformStream<StreamChunk, ForwardResult<Cache>> {
    const feeding = this.#feeding(options);
    let transformer: Promise<StreamTransformer>;
    // `cancel` is so new that TypeScript has not heard of it, nor has every runtime.
    const link: Transformer<StreamChunk, ForwardResult<Cache>> & { cancel(): Promise<void> } = {
      start: (controller) => {
        transformer = parts.stream().then((part) => part.transformerOf(feeding, controller));
        return transformer;
      },
      transform: async (chunk) => (await transformer).transform(chunk),
      flush: async () => (await transformer).flush(),
      cancel: async () => (await transformer).cancel(),
    };
    return new TransformStream(link);
  }

  /**
   * Reads one token of each stream, on the calling thread, at once: xt [cache.batch, inputWidth] or ids -> yt [cache.batch,
   * outputWidth], advancing `cache` in place; of some streams only with `rows`. On the CPU it gives what `forward` gives,
   * bit for bit. A model that pools gives what it makes of the tokens so far: NaN until its first window of tokens is full,
   * where it pools in windows.
   *
   * Throws `shape-mismatch`, `wrong-dtype`, `detached`, `invalid-argument`, `non-finite` for xt and options, `foreign-cache` and
   * `cache-busy` for the cache, `unsupported` for a model that cannot be stepped, for it reads tokens ahead, `disposed` and
   * `out-of-memory`.
   */
  stepSync<Y extends Float32Array = Float32Array<ArrayBuffer>>(
    xt: Input,
    cache: Cache,
    options: StepOptions<Y> = {},
  ): Y {
    checkCache<Cache>("cache", cache, this);
    const step = this.#checkSteps(xt, cache, options, false);
    return stepHere(this.#prepared, step, cache.state) as Y;
  }

  /**
   * The same numbers as {@link stepSync}; runs on the GPU where that was asked for or is faster, and where the state is there.
   * With a {@link GpuCache}, xt and `out` may be GPUBuffers of `engine.gpuDevice`, which are neither uploaded nor read back.
   * Rejects with what `stepSync` throws and `forward` rejects with.
   */
  step(
    xt: Input | GpuBuffer,
    cache: GpuCache<Cache>,
    options: StepOptions<GpuBuffer> & { out: GpuBuffer },
  ): Promise<GpuBuffer>;
  step<Y extends Float32Array = Float32Array<ArrayBuffer>>(
    xt: Input | GpuBuffer,
    cache: Cache | GpuCache<Cache>,
    options?: StepOptions<Y>,
  ): Promise<Y>;
  async step(
    xt: Input | GpuBuffer,
    cache: Cache | GpuCache<Cache>,
    options: StepOptions<Float32Array | GpuBuffer> = {},
  ): Promise<Float32Array | GpuBuffer> {
    const step = this.#checkSteps(xt, cache, options, false);
    if (isGpuCache(cache)) return cache.advance(step);
    if (stepsOnGpu(this.#host, this.#prepared, step.streams)) return this.#stepAway(step, cache, true);
    return stepHere(this.#prepared, step, cache.state);
  }

  /**
   * Many steps in one call: x [steps, streams, inputWidth] -> y [steps, streams, outputWidth], what as many calls of
   * {@link step} give, on the CPU bit for bit; advances `cache` in place. Threads and the GPU take part as in a forward.
   * Rejects with what `forward` rejects with; the cache is then as it was.
   */
  stepMany(
    x: Input | GpuBuffer,
    cache: GpuCache<Cache>,
    options: StepOptions<GpuBuffer> & { out: GpuBuffer },
  ): Promise<GpuBuffer>;
  stepMany<Y extends Float32Array = Float32Array<ArrayBuffer>>(
    x: Input | GpuBuffer,
    cache: Cache | GpuCache<Cache>,
    options?: StepOptions<Y>,
  ): Promise<Y>;
  async stepMany(
    x: Input | GpuBuffer,
    cache: Cache | GpuCache<Cache>,
    options: StepOptions<Float32Array | GpuBuffer> = {},
  ): Promise<Float32Array | GpuBuffer> {
    const all = this.#checkSteps(x, cache, options, true);
    if (isGpuCache(cache)) return cache.advance(all);
    // Of what pools or changes its rate, a forward does not say what each step gives.
    return this.#stepAway(all, cache, this.#inputs.oneRowPerToken);
  }

  /** As a forward, or one by one. */
  #stepAway(all: Steps, cache: Cache, asForward: boolean): Promise<Float32Array> {
    const stepped = () =>
      stepAway(this.#host, this.#prepared, all, cache.state, asForward, () => this.checkUsable()).catch(
        (error) => {
          throw asOutOfMemory("the steps", error);
        },
      );
    return cache.whileLocked(stepped);
  }

  #checkSteps(
    x: Input | GpuBuffer,
    cache: Cache | GpuCache<Cache>,
    options: StepOptions<Float32Array | GpuBuffer>,
    many: boolean,
  ): Steps {
    this.checkUsable();
    this.#inputs.checkStreams("step");
    const onGpu = isGpuCache(cache);
    if (!onGpu || cache.owner !== this) checkCache<Cache>("cache", cache, this);
    const steps = checkSteps(this.#inputs, x, cache.batch, options, many);
    if (steps.ports && !onGpu) {
      const help = "use a cache of allocateGpuCache";
      throw new LinrecError("unsupported", `A step of this cache cannot take a GPUBuffer: ${help}.`);
    }
    if (onGpu) return steps;
    cache.checkFree();
    const { rows, reset, streams, timesteps } = steps;
    const rowOf = (i: number) => (reset?.[i] ? -1 : ((rows ? rows[i] : i) as number));
    if (!timesteps) this.#inputs.checkUntimed(cache.state, streams, rowOf);
    return steps;
  }

  /**
   * A cache of zeros for `batch` streams (1).
   * Throws `invalid-argument`, `unsupported` for a model that cannot be stepped, `out-of-memory` and `disposed`.
   */
  allocateInferenceCache(batch = 1): Cache {
    this.checkUsable();
    checkCount("batch", batch, 0);
    this.#inputs.checkStreams("step");
    return this.wrap(new State(this.#prepared.layout, batch));
  }

  /**
   * A cache of zeros for `batch` streams whose state is on the GPU and stays there, for `step` and `stepMany`: a demand for
   * the GPU, as nothing else steps it. Its numbers are those of the GPU (float32 states). It has memory: dispose of it.
   * Rejects with `invalid-argument`, `backend-unavailable`, `unsupported`, `out-of-memory`, `gpu-failed`, `timeout`, `disposed`.
   */
  async allocateGpuCache(batch = 1): Promise<GpuCache<Cache>> {
    this.checkUsable();
    checkCount("batch", batch, 0);
    this.#inputs.checkStreams("step");
    this.#inputs.checkOneProgram("a cache on the GPU");
    return this.#host.gpuCache(this.#prepared, batch, {
      owner: this,
      wrap: (state) => this.wrap(state),
      unwrap: (cache) => {
        checkCache<Cache>("cache", cache, this);
        cache.checkFree();
        return cache.state;
      },
    });
  }

  /**
   * A state as bytes (a .safetensors file), with its version and this model's fingerprint. Every bit is kept.
   * Throws `invalid-argument` and `foreign-cache` for what is no state of this model, `cache-busy`, `out-of-memory` and `disposed`.
   */
  serializeState(state: Cache): Uint8Array<ArrayBuffer> {
    this.checkUsable();
    checkCache<Cache>("state", state, this);
    state.checkFree();
    return allocating("a state's bytes", () => encodeState(state.state, this.#owner()));
  }

  /**
   * The way back. Throws `foreign-cache` if the state is another model's, `malformed-file` and `unsupported` if it is none,
   * `wrong-dtype` and `detached` for what are no bytes, `out-of-memory` and `disposed`.
   */
  deserializeState(bytes: ArrayBufferLike | ArrayBufferView): Cache {
    this.checkUsable();
    return this.wrap(decodeState(bytes, this.#prepared.layout, this.#owner()));
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

  #feeding(options: StreamOptions<Cache>): Feeding<ForwardResult<Cache>> {
    this.checkUsable();
    this.#inputs.checkStreams("read a stream");
    checkOptions("forwardStream's options", options, streamOptionNames);
    const { tokens, every = 1, backend, signal } = options;
    if (options.state !== undefined) checkCache<Cache>("state", options.state, this);
    let state = this.wrap(startOf(this.reader, options.state, 1));
    if (tokens !== undefined) checkCount("tokens", tokens, 1);
    this.#inputs.checkEvery(every);
    if (backend !== undefined) checkBackendOption(backend);
    checkSignal(signal);
    const token = 4 * this.inputWidth;
    const most = tokens ?? Math.max(1, Math.floor(WINDOW_BYTES / token));
    return {
      array: this.vocabulary === undefined ? Float32Array : Int32Array,
      inputWidth: this.inputWidth,
      window: allocating(`${most} tokens (give fewer)`, () => new Uint8Array(most * token)),
      whole: tokens !== undefined,
      forward: async (x, marks) => {
        const result = await this.#forward(x, { ...marks, state, every, backend, signal }, true);
        state = result.state.clone() as Cache; // the other is its reader's, to step if they like
        return result;
      },
      signal,
    };
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
}
