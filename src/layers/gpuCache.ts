/** The states of many streams on the GPU: a cache whose numbers only come to JavaScript when they are asked for. */
import type { Resident } from "../backend.js";
import { allocating } from "../errors.js";
import type { GpuBuffer } from "../runtime/gpuBuffer.js";
import type { State } from "../state.js";
import { holding } from "../validate.js";
import { type AnyCache, checkAsMany, gpuCaches, rowsOf } from "./cache.js";
import type { Steps } from "./steps.js";

/** What a cache wants of its layer or model. */
export interface CacheOwner<Cache> {
  readonly owner: object;
  wrap(state: State): Cache;
  /** The state of a cache of its own. Throws if it is none, or is being advanced. */
  unwrap(cache: Cache): State;
}

/**
 * The state of `batch` streams on the GPU, where `step` and `stepMany` leave it: none of it is copied from step to step.
 * It belongs to the layer or model that made it. Calls may overlap, and take effect in their order. `read` and `write` are
 * the only ways out and in, so no number of it is ever out of date.
 *
 * If a call fails on the GPU, the state is lost: that call and all later ones reject.
 */
export class GpuCache<Cache extends AnyCache = AnyCache> {
  /** The layer or model that it belongs to. */
  readonly owner: object;
  /** How many streams it holds. */
  readonly batch: number;
  readonly #tokens: Float64Array<ArrayBuffer>;
  /** Rows of which nothing on the GPU counts: their next token begins a sequence. */
  readonly #fresh: Uint8Array;
  readonly #resident: Resident;
  readonly #own: CacheOwner<Cache>;

  /** @internal Use `allocateGpuCache`. */
  constructor(batch: number, resident: Resident, own: CacheOwner<Cache>) {
    this.owner = own.owner;
    this.batch = batch;
    this.#tokens = new Float64Array(batch);
    this.#fresh = new Uint8Array(batch).fill(1);
    this.#resident = resident;
    this.#own = own;
    gpuCaches.add(this);
  }

  /** [batch] tokens that each stream has been given since its origin (zeros, `write` or a reset), a copy. */
  get tokens(): Float64Array<ArrayBuffer> {
    return this.#tokens.slice();
  }

  /**
   * Zeroes the streams in `rows`, or all, for the calls to come: h = 0, no token read.
   * Throws `wrong-dtype`, `detached` and `invalid-argument` for what are no rows of it.
   */
  reset(rows?: Int32Array): void {
    for (const row of rowsOf(rows, this.batch)) [this.#tokens[row], this.#fresh[row]] = [0, 1];
  }

  /**
   * A copy of the streams in `rows`, or of all, in JavaScript's memory: to look at, to save, to step or forward from.
   * Rejects with `wrong-dtype`, `detached` and `invalid-argument` for what are no rows of it, and with `disposed`,
   * `gpu-failed`, `timeout` and `out-of-memory`.
   */
  async read(rows?: Int32Array): Promise<Cache> {
    const wanted = rowsOf(rows, this.batch);
    const [fresh, tokens] = [this.#fresh.slice(), this.tokens]; // as they are now
    const state = await this.#resident.read(wanted);
    for (const [i, row] of wanted.entries()) {
      if (fresh[row]) state.resetRow(i);
      else state.restartRow(i, tokens[row] as number);
    }
    return this.#own.wrap(state);
  }

  /**
   * Makes the streams in `rows`, or all, what those of a cache of the same layer or model are, rounded to float32.
   * Rejects with `invalid-argument`, `foreign-cache` and `cache-busy` for the cache, `shape-mismatch` if it has not as many
   * streams as there are rows, and with what {@link read} rejects with.
   */
  async write(cache: Cache, rows?: Int32Array): Promise<void> {
    const [state, wanted] = [this.#own.unwrap(cache), rowsOf(rows, this.batch)];
    checkAsMany(state, wanted);
    const done = allocating("a cache's states", () => this.#resident.write(wanted, state));
    for (const [i, row] of wanted.entries())
      [this.#tokens[row], this.#fresh[row]] = [state.count[i] as number, 0];
    return done;
  }

  /** Frees its memory on the GPU. Calls under way reject with `disposed`. Idempotent. */
  dispose(): void {
    this.#resident.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  /** @internal */
  async advance({
    x,
    y,
    ports,
    steps,
    streams,
    rows,
    timesteps,
    reset,
  }: Steps): Promise<Float32Array | GpuBuffer> {
    const all = rowsOf(rows, this.batch);
    if (steps * streams === 0) return ports?.y ?? y;
    const intact = holding(y, y);
    const { values, done } = allocating("steps of a cache", () => {
      const [own, isFresh] = [this.tokens, this.#fresh.slice()];
      const fresh = new Uint8Array(steps * streams);
      const counts = new Float32Array(steps * streams);
      for (let i = 0; i < counts.length; i++) {
        const row = all[i % streams] as number;
        if (reset?.[i]) [own[row], isFresh[row]] = [0, 1];
        fresh[i] = isFresh[row] as number;
        isFresh[row] = 0;
        own[row] = (own[row] as number) + 1;
        counts[i] = own[row] as number;
      }
      // The caller's arrays are let go of before others are heard: calls overlap, and one that fails loses the state.
      const values = new Float32Array(y.length);
      const given = { x: x.slice(), ports, steps, streams, rows: all, fresh, counts, timesteps };
      const done = this.#resident.step({ ...given, y: values });
      // After all that there may be no memory for: a call that is refused has done nothing.
      this.#tokens.set(own);
      this.#fresh.set(isFresh);
      return { values, done };
    });
    await done;
    if (ports?.y) return ports.y;
    intact();
    y.set(values);
    return y;
  }
}
