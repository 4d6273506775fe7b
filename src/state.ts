/**
 * The state of a program: what its recurrent stages carry from token to token, for each row of a batch.
 *
 * An LRU's h is kept in two parts, so that any backend and any split of a sequence gives the same bits (docs/how-it-works.md):
 * `carry` float64, h at the start of the current chunk, and `loc` float32, what the chunk has added since:
 * h = loc + lambda^k carry, with k tokens of the chunk done. A pool is the same with lambda = 1, both parts float64; where it
 * takes the maximum, nothing is -Infinity. What a chain of programs carries between them is a `carry`, without `loc`: a window's holds the time since its last token.
 *
 * In memory a row is one block of `rowBytes`, laid out as the CPU kernels read it: states in groups of four,
 * [re x 4 | im x 4], the last group padded with zeros.
 */
import { allocating } from "./errors.js";
import { eigenvalues, powerIm, powerRe } from "./params.js";
import type { LruStage, Network, PoolStage, ShiftStage, Stage, WindowStage } from "./program.js";
import { type HoldStage, type RateLink, ratesOf } from "./rates.js";

/** T: tokens in a chunk of the fixed grid. Small, so that T powers of lambda stay in cache. */
export const CHUNK = 48;

/** Rows of the kernels' state blocks start on cache lines of their own: two threads never write one line. */
const ROW_ALIGNMENT = 128;

export interface StateSlot {
  readonly stage: LruStage | PoolStage | WindowStage | ShiftStage | HoldStage;
  /** dState of an LRU, else the width */
  readonly size: number;
  /** size rounded up to a multiple of 4 */
  readonly padded: number;
  /** Byte offset in the row of carry: float64 [padded / 4][re x 4 | im x 4], or [padded] for a pool. */
  readonly carry: number;
  /** Byte offset in the row of loc: float32 [padded / 4][re x 4 | im x 4], or float64 [padded] for a pool. */
  readonly loc: number;
}

export interface StateLayout {
  readonly slots: readonly StateSlot[];
  readonly rowBytes: number;
  /** Of a network whose rate changes: the states of its links, which count tokens of their own. Else none. */
  readonly parts: readonly StateLayout[];
}

/** One slot for each stage that carries something, in stage order. */
export function stateLayout(network: Network): StateLayout {
  const rates = ratesOf(network);
  if (!rates) return layoutOf(network.stages as readonly Stage[]);
  const parts = rates.links.map((link) => layoutOf(link.kind === "part" ? link.program.stages : [link]));
  return { ...layoutOf([]), parts };
}

function layoutOf(stages: readonly (Stage | RateLink)[]): StateLayout {
  const slots: StateSlot[] = [];
  let offset = 0;
  for (const stage of stages) {
    if (!carries(stage)) continue;
    const size = stage.kind === "lru" ? stage.dState : stage.width;
    const padded = Math.ceil(size / 4) * 4;
    const carryBytes = stage.kind === "lru" ? 16 * padded : 8 * padded;
    const locBytes = 8 * padded;
    slots.push({ stage, size, padded, carry: offset, loc: offset + carryBytes });
    offset = Math.ceil((offset + carryBytes + locBytes) / 64) * 64;
  }
  return { slots, rowBytes: Math.ceil(offset / ROW_ALIGNMENT) * ROW_ALIGNMENT, parts: [] };
}

function carries(stage: Stage | RateLink): stage is StateSlot["stage"] {
  const { kind } = stage;
  if (kind === "pool") return stage.mode !== "last";
  return kind === "lru" || kind === "shift" || kind === "hold" || kind === "window";
}

/** What a slot holds of no token. */
function empty({ stage }: StateSlot): number {
  return stage.kind === "pool" && stage.mode === "max" ? -Infinity : 0;
}

/** The state of `batch` rows. Plain data: the typed arrays are its own, and any backend may write them in place. */
export class State {
  readonly layout: StateLayout;
  readonly batch: number;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  /** Fills the bytes in, as long as a stepper has them in its own memory. */
  #fetch: ((bytes: Uint8Array) => void) | undefined;
  /** [batch] tokens of the current chunk that are in `loc`: 0 <= k < CHUNK */
  readonly k: Int32Array<ArrayBuffer>;
  /** [batch] tokens read since the state was last set or zero: what a mean pool divides by */
  readonly count: Float64Array<ArrayBuffer>;
  /** Those of layout.parts. */
  readonly parts: readonly State[];

  constructor(layout: StateLayout, batch: number) {
    this.layout = layout;
    this.batch = batch;
    [this.#bytes, this.k, this.count] = allocating("a state", () => [
      zeros(batch * layout.rowBytes),
      new Int32Array(batch),
      new Float64Array(batch),
    ]);
    this.parts = layout.parts.map((part) => new State(part, batch));
    for (const slot of layout.slots) if (empty(slot) !== 0) this.#clear(slot);
  }

  /** [batch] rows of layout.rowBytes. Whoever keeps a view of them says {@link settle} before each use of it. */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.settle();
    return this.#bytes;
  }

  /** For a stepper: the bytes are with it, until somebody asks for them and `fetch` brings them. */
  lend(fetch: (bytes: Uint8Array) => void): void {
    this.#fetch = fetch;
  }

  /** Brings the bytes back from a stepper. */
  settle(): void {
    const fetch = this.#fetch;
    this.#fetch = undefined;
    fetch?.(this.#bytes);
  }

  clone(): State {
    const copy = new State(this.layout, this.batch);
    copy.copyFrom(this);
    return copy;
  }

  copyFrom(other: State): void {
    this.bytes.set(other.bytes);
    this.k.set(other.k);
    this.count.set(other.count);
    for (const [i, part] of this.parts.entries()) part.copyFrom(other.parts[i] as State);
  }

  /** Makes a row what a row of another state of the same layout is. */
  copyRow(row: number, other: State, from: number): void {
    const { rowBytes } = this.layout;
    this.bytes.set(other.bytes.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes);
    this.k[row] = other.k[from] as number;
    this.count[row] = other.count[from] as number;
    for (const [i, part] of this.parts.entries()) part.copyRow(row, other.parts[i] as State, from);
  }

  /** The given rows, as a state of their own. */
  pick(rows: Int32Array): State {
    const some = new State(this.layout, rows.length);
    for (let i = 0; i < rows.length; i++) some.copyRow(i, this, rows[i] as number);
    return some;
  }

  /** The way back of {@link pick}. */
  put(rows: Int32Array, some: State): void {
    for (let i = 0; i < rows.length; i++) this.copyRow(rows[i] as number, some, i);
  }

  /** Zeroes one row: h = 0, no token read. */
  resetRow(row: number): void {
    this.bytes.fill(0, row * this.layout.rowBytes, (row + 1) * this.layout.rowBytes);
    this.k[row] = 0;
    this.count[row] = 0;
    for (const slot of this.layout.slots) if (empty(slot) !== 0) this.#clear(slot, row, row + 1);
    for (const part of this.parts) part.resetRow(row);
  }

  #clear(slot: StateSlot, from = 0, to = this.batch): void {
    for (let row = from; row < to; row++) {
      this.carry(slot, row).fill(empty(slot));
      this.poolLoc(slot, row).fill(empty(slot));
    }
  }

  carry(slot: StateSlot, row: number): Float64Array<ArrayBuffer> {
    const length = slot.stage.kind === "lru" ? 2 * slot.padded : slot.padded;
    return new Float64Array(...this.#at(row, slot.carry), length);
  }

  /** All that a slot of a row holds: carry, then loc. */
  block({ carry, loc, padded }: StateSlot, row: number): Uint8Array<ArrayBuffer> {
    const start = row * this.layout.rowBytes;
    return this.bytes.subarray(start + carry, start + loc + 8 * padded);
  }

  /** loc of an LRU slot (a pool's is float64: see {@link poolLoc}). */
  loc(slot: StateSlot, row: number): Float32Array<ArrayBuffer> {
    return new Float32Array(...this.#at(row, slot.loc), 2 * slot.padded);
  }

  poolLoc(slot: StateSlot, row: number): Float64Array<ArrayBuffer> {
    return new Float64Array(...this.#at(row, slot.loc), slot.padded);
  }

  #at(row: number, offset: number): [ArrayBuffer, number] {
    const { buffer, byteOffset } = this.bytes;
    return [buffer, byteOffset + row * this.layout.rowBytes + offset];
  }

  /**
   * The current value of a slot in float64: h of an LRU, `re` and `im` [size]; the running sum or maximum of a pool, in `re`.
   */
  read(slot: StateSlot, row: number): { re: Float64Array; im: Float64Array } {
    const re = new Float64Array(slot.size);
    const im = new Float64Array(slot.size);
    const carry = this.carry(slot, row);
    if (slot.stage.kind !== "lru") {
      const loc = this.poolLoc(slot, row);
      for (let i = 0; i < slot.size; i++) {
        const [a, b] = [loc[i] as number, carry[i] as number];
        re[i] = empty(slot) === 0 ? a + b : Math.max(a, b);
      }
      return { re, im };
    }
    const k = this.k[row] as number;
    if (k === 0) {
      // A GPU's states are all so, and are read at every step.
      for (let n = 0; n < slot.size; n++) {
        re[n] = carry[groupIndex(n)] as number;
        im[n] = carry[groupIndex(n) + 4] as number;
      }
      return { re, im };
    }
    const loc = this.loc(slot, row);
    const eigen = eigenvalues(slot.stage.params);
    for (let n = 0; n < slot.size; n++) {
      const i = groupIndex(n);
      const [cr, ci] = [carry[i] as number, carry[i + 4] as number];
      const [pr, pi] = [powerRe(eigen, n, k), powerIm(eigen, n, k)];
      re[n] = (loc[i] as number) + (eigen.nuIm ? pr * cr : pr * cr - pi * ci);
      im[n] = (loc[i + 4] as number) + (eigen.nuIm ? pi * ci : pr * ci + pi * cr);
    }
    return { re, im };
  }

  /**
   * Starts a slot of one row afresh from a value: h = re + i im of an LRU, or the running value `re` of a pool.
   * A new origin needs k = 0 in every slot of the row: the caller writes all slots, then {@link restartRow}.
   */
  write(slot: StateSlot, row: number, re: ArrayLike<number>, im: ArrayLike<number>): void {
    const carry = this.carry(slot, row);
    if (slot.stage.kind !== "lru") {
      carry.set(re);
      this.poolLoc(slot, row).fill(empty(slot));
      return;
    }
    for (let n = 0; n < slot.size; n++) {
      carry[groupIndex(n)] = re[n] as number;
      carry[groupIndex(n) + 4] = im[n] as number;
    }
    this.loc(slot, row).fill(0);
  }

  /** Brings what a row's slots hold into their carries alone: k = 0. */
  settleRow(row: number): void {
    if (this.k[row] === 0) return; // it is so to the bit
    for (const slot of this.layout.slots) {
      const { re, im } = this.read(slot, row);
      this.write(slot, row, re, im);
    }
    this.k[row] = 0;
  }

  /** Makes the row's next token the first of a chunk, `count` tokens after the state's origin. */
  restartRow(row: number, count: number): void {
    this.k[row] = 0;
    this.count[row] = count;
  }
}

/** Small states share buffers, of so many bytes: a buffer for each takes as long as the forward of a token. */
const SHARED_BYTES = 16384;
let shared = new ArrayBuffer(0);
let taken = 0;

function zeros(bytes: number): Uint8Array<ArrayBuffer> {
  if (8 * bytes > SHARED_BYTES) return new Uint8Array(bytes);
  if (taken + bytes > shared.byteLength) [shared, taken] = [new ArrayBuffer(SHARED_BYTES), 0];
  taken += bytes;
  return new Uint8Array(shared, taken - bytes, bytes);
}

/** What a link of a chain holds of a row. */
export function carryOf(state: State, row: number): Float64Array {
  return state.carry(state.layout.slots[0] as StateSlot, row);
}

/** Where the real part of state n stands in [re x 4 | im x 4] groups; its imaginary part is 4 further. */
export function groupIndex(n: number): number {
  return 2 * (n & ~3) + (n & 3);
}
