/** Inference caches: the state of a layer or model, in the hands of its user; whose a cache is, and where its state is. */
import { allocating, LinrecError } from "../errors.js";
import { type Hidden, hiddenSlots, readHidden, writeHidden } from "../networks/hidden.js";
import type { State } from "../state.js";
import { checkCount, checkFloat32, checkInt32, show, viewOf } from "../validate.js";
import type { GpuCache } from "./gpuCache.js";

/** h of one LRU, for every row of a batch. */
export interface HiddenState {
  /** [batch, dState] */
  re: Float32Array;
  /** [batch, dState] */
  im: Float32Array;
}

/** An LRU's slot, and the state that it is in: the parts of a chain have states of their own. */
interface LayerSlot extends Hidden {
  readonly state: State;
}

/**
 * The state of `batch` streams: what `step` advances, and what `forward` starts from and ends with. It belongs to the
 * layer or model that made it; nothing of it lives outside JavaScript's memory, so there is nothing to dispose of.
 */
export abstract class InferenceCache<Own = unknown> {
  /** The layer or model that it belongs to. */
  readonly owner: object;
  /** @internal */
  readonly state: State;
  #locked = false;

  /** @internal Use `allocateInferenceCache`. */
  constructor(owner: object, state: State) {
    this.owner = owner;
    this.state = state;
  }

  /** How many streams it holds. */
  get batch(): number {
    return this.state.batch;
  }

  /** [batch] tokens that each stream has read since its origin (zeros, `set` or a reset), a copy. */
  get tokens(): Float64Array<ArrayBuffer> {
    return this.state.count.slice();
  }

  /**
   * Zeroes the streams in `rows`, or all: h = 0, no token read.
   * Throws `invalid-argument` for what are no rows of it, and `cache-busy` while a step is advancing it.
   */
  reset(rows?: readonly number[] | Int32Array): void {
    this.checkFree();
    if (rows !== undefined && typeof rows?.[Symbol.iterator] !== "function") {
      throw new LinrecError(
        "invalid-argument",
        `reset() takes a list of rows, or nothing; got ${show(rows)}.`,
      );
    }
    const list = [...(rows ?? Array(this.batch).keys())]; // an iterator gives its values once
    for (const row of list) {
      checkCount("a row to reset", row, 0);
      if (row >= this.batch) {
        throw new LinrecError(
          "invalid-argument",
          `row ${row} is to be reset, but the cache has ${this.batch}, from 0 to ${this.batch - 1}.`,
        );
      }
    }
    for (const row of list) this.state.resetRow(row);
  }

  protected abstract of(state: State): Own;

  /** A copy that goes its own way. Throws `cache-busy` while a step is advancing this one, and `out-of-memory`. */
  clone(): Own {
    this.checkFree();
    return this.of(this.state.clone());
  }

  /**
   * A copy of the streams in `rows`, in this order, or of all: to save one of many, or to step it elsewhere, with the same bits.
   * Throws `wrong-dtype`, `detached` and `invalid-argument` for what are no rows of it, `cache-busy` while a step is advancing
   * it, and `out-of-memory`.
   */
  read(rows?: Int32Array): Own {
    this.checkFree();
    return this.of(this.state.pick(rowsOf(rows, this.batch)));
  }

  /**
   * Makes the streams in `rows`, or all, what those of a cache of the same layer or model are, to the bit.
   * Throws `invalid-argument`, `foreign-cache` and `cache-busy` for the cache, `shape-mismatch` if it has not as many streams as
   * there are rows, and what {@link read} throws.
   */
  write(cache: AnyCache, rows?: Int32Array): void {
    checkCache("cache", cache, this.owner);
    this.checkFree();
    cache.checkFree();
    const wanted = rowsOf(rows, this.batch);
    checkAsMany(cache, wanted);
    this.state.put(wanted, cache.state === this.state ? cache.state.clone() : cache.state);
  }

  /** @internal Whether it is one itself, and no proxy or copy. */
  static is(cache: unknown): cache is InferenceCache {
    return #locked in Object(cache);
  }

  /** @internal Throws if an asynchronous step is advancing the cache. */
  checkFree(): void {
    if (this.#locked) {
      throw new LinrecError(
        "cache-busy",
        "This cache is being advanced by a step that has not finished. Await it first.",
      );
    }
  }

  /** @internal Keeps everybody else away while `work` advances the cache. */
  async whileLocked<T>(work: () => Promise<T>): Promise<T> {
    this.checkFree();
    this.#locked = true;
    try {
      return await work();
    } finally {
      this.#locked = false;
    }
  }

  protected lruSlots(): LayerSlot[] {
    return [this.state, ...this.state.parts].flatMap((state) =>
      hiddenSlots(state).map((hidden) => ({ ...hidden, state })),
    );
  }

  protected hidden(layer: LayerSlot): HiddenState {
    const { size, state } = layer;
    const values = () => allocating("a copy of the state", () => new Float32Array(this.batch * size));
    const [re, im] = [values(), values()];
    for (let row = 0; row < this.batch; row++) {
      const h = readHidden(state, layer, row);
      re.set(h.re, row * size);
      im.set(h.im, row * size);
    }
    return { re, im };
  }

  /** Starts every row afresh from the given h of each layer: no token read since. */
  protected restart(layers: readonly HiddenState[]): void {
    this.checkFree();
    const slots = this.lruSlots();
    if (layers.length !== slots.length) {
      throw new LinrecError(
        "shape-mismatch",
        `set() got the states of ${layers.length} layers; this model has ${slots.length}.`,
      );
    }
    const given = slots.map(({ size }, i) => {
      const layer: Partial<HiddenState> | null | undefined = layers[i];
      const re = checkPart(`re of layer ${i}`, layer?.re, this.batch, size);
      return { re, im: checkPart(`im of layer ${i}`, layer?.im, this.batch, size) };
    });
    for (let row = 0; row < this.batch; row++) {
      this.state.resetRow(row);
      for (const [i, slot] of slots.entries()) {
        const { re, im } = given[i] as HiddenState;
        const [from, to] = [row * slot.size, (row + 1) * slot.size];
        writeHidden(slot.state, slot, row, re.subarray(from, to), im.subarray(from, to));
      }
    }
  }
}

function checkPart(name: string, values: unknown, batch: number, size: number): Float32Array {
  checkFloat32(name, values);
  if (values.length !== batch * size) {
    throw new LinrecError(
      "shape-mismatch",
      `${name} has ${values.length} values; batch ${batch} x dState ${size} needs ${batch * size}.`,
    );
  }
  return viewOf(values);
}

/** The state of a bare LRU layer. */
export class LruCache extends InferenceCache<LruCache> {
  /** The current h of every stream: re, im [batch, dState] float32, copies. Throws `out-of-memory`. */
  get(): HiddenState {
    return this.hidden(this.lruSlots()[0] as LayerSlot);
  }

  /**
   * Starts every stream afresh from h = re + i im, [batch, dState] float32 each: no token read since.
   * Throws `shape-mismatch`, `wrong-dtype`, `detached`, and `cache-busy` while a step is advancing it.
   */
  set(re: Float32Array, im: Float32Array): void {
    this.restart([{ re, im }]);
  }

  protected of(state: State): LruCache {
    return new LruCache(this.owner, state);
  }
}

/** The state of a model: that of each of its LRU layers, and of a mean pool if it has one. */
export class ModelCache extends InferenceCache<ModelCache> {
  /** The current h of every layer, first to last: re, im [batch, dState] float32 each, copies. Throws `out-of-memory`. */
  get(): HiddenState[] {
    return this.lruSlots().map((slot) => this.hidden(slot));
  }

  /**
   * Starts every stream afresh from the h of each layer, given as `get` returns it or as two lists, re and im
   * [layers][batch, dState]: no token read since, and nothing in the mean.
   * Throws `invalid-argument`, `shape-mismatch`, `wrong-dtype`, `detached`, and `cache-busy` while a step is advancing it.
   */
  set(layers: readonly HiddenState[]): void;
  set(re: readonly Float32Array[], im: readonly Float32Array[]): void;
  set(layersOrRe: readonly HiddenState[] | readonly Float32Array[], im?: readonly Float32Array[]): void {
    for (const list of im === undefined ? [layersOrRe] : [layersOrRe, im]) {
      if (!Array.isArray(list)) {
        throw new LinrecError(
          "invalid-argument",
          `set() of a model takes what get() gives, [{ re, im }, ...], or two lists; got ${show(list)}.`,
        );
      }
    }
    if (im && im.length !== layersOrRe.length) {
      throw new LinrecError(
        "shape-mismatch",
        `set() got re of ${layersOrRe.length} layers and im of ${im.length}.`,
      );
    }
    const layers = im?.map((part, i) => ({ re: layersOrRe[i], im: part })) ?? layersOrRe;
    this.restart(layers as HiddenState[]);
  }

  protected of(state: State): ModelCache {
    return new ModelCache(this.owner, state);
  }
}

/** The state of a layer, or of a model. */
export type AnyCache = LruCache | ModelCache;

/** Those that there are: their class is in a file that is loaded later. */
export const gpuCaches = new WeakSet<object>();

export function isGpuCache<Cache extends AnyCache>(cache: unknown): cache is GpuCache<Cache> {
  return gpuCaches.has(cache as object);
}

/** Throws unless `cache` is one of `owner`'s, in JavaScript's memory. */
export function checkCache<Cache extends AnyCache>(
  name: string,
  cache: unknown,
  owner: object,
): asserts cache is Cache {
  if (isGpuCache(cache) && cache.owner === owner) {
    throw new LinrecError(
      "invalid-argument",
      `${name} is on the GPU: await step or stepMany with it, or pass a copy, \`await cache.read()\`.`,
    );
  }
  if (!InferenceCache.is(cache) && !isGpuCache(cache)) {
    throw new LinrecError(
      "invalid-argument",
      `${name} must come from allocateInferenceCache or a forward; got ${show(cache)}. Pass the cache itself, not a copy or a ` +
        "proxy of it (Vue: markRaw).",
    );
  }
  if (cache.owner !== owner) {
    throw new LinrecError(
      "foreign-cache",
      `${name} belongs to another layer or model. Use one of this model's own.`,
    );
  }
}

/** Each row at most once: a stream cannot be in two places. */
export function checkRows(rows: Int32Array, batch: number): void {
  checkInt32("rows", rows, "an Int32Array");
  const seen = new Uint8Array(batch);
  rows.forEach((row, i) => {
    const what = `rows[${i}] is ${row}`;
    if (!(row >= 0 && row < batch)) {
      const all = batch > 0 ? `its rows are 0 to ${batch - 1}` : "it has no rows";
      throw new LinrecError("invalid-argument", `${what}; the cache has ${batch}: ${all}.`);
    }
    if (seen[row]) {
      throw new LinrecError(
        "invalid-argument",
        `${what}, as rows[${rows.indexOf(row)}] is: each row may be given once. Leave it out; stepMany reads many tokens of a row.`,
      );
    }
    seen[row] = 1;
  });
}

/** A copy of `rows`, checked, or all of them. */
export function rowsOf(rows: Int32Array | undefined, batch: number): Int32Array {
  if (rows === undefined) return Int32Array.from({ length: batch }, (_, row) => row);
  checkRows(rows, batch);
  return rows.slice();
}

/** Throws unless a cache that is to be written has a stream for each row. */
export function checkAsMany({ batch }: { readonly batch: number }, rows: Int32Array): void {
  if (batch === rows.length) return;
  throw new LinrecError(
    "shape-mismatch",
    `the cache to write has ${batch} streams, to ${rows.length} rows. They must be as many.`,
  );
}
