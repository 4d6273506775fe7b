/**
 * A network whose rate changes, run as a chain of programs: segment by segment through all of them, on one backend, each
 * program's state carried along. What is between them is done here, in plain loops on the calling thread; so memory is
 * bounded at any length, and every promise that the backends keep holds of the whole.
 */
import type { ForwardJob, Runner } from "./backend.js";
import { macrotask } from "./macrotask.js";
import {
  inputWidth,
  type Network,
  outputWidth,
  type ShiftStage,
  slotWidth,
  type WindowStage,
} from "./program.js";
import { type HoldStage, type Link, linksOf, paddingOf, segmentTokens } from "./rates.js";
import type { Stepper } from "./recurrent.js";
import { throwIfAborted } from "./signal.js";
import type { State, StateSlot } from "./state.js";

/** [batch, seqLen, width] values, of which the first counts[row] of each row are there. */
interface Rows {
  readonly data: Float32Array;
  readonly seqLen: number;
  readonly counts: Int32Array;
  /** How many there would be if every row were as long as the longest: only at the end of ragged rows. */
  readonly totals?: readonly number[] | undefined;
}

/** What the walk through the links asks its driver for: y of a part, whose place is taken, with its state advanced. */
interface PartRun {
  readonly index: number;
  readonly x: Rows;
  readonly y: Float32Array;
  readonly state: State;
}

/** The calling thread may be a page's: let it breathe this often. */
const YIELD_MS = 12;

/** @template Part what each part is run by: a Runner for `forward`, a Stepper for `step` */
export class Chain<Part extends Partial<Runner & Stepper>> implements Runner, Stepper {
  readonly #network: Network;
  readonly #parts: readonly Part[];
  readonly #links: readonly Link[];
  /** Float64Array for the oracle, which takes those too. */
  readonly #Floats: Float32ArrayConstructor;
  /** A step's, which are never used by two at a time. */
  readonly #buffers: Buffers;

  /** @param exact keep what is between the parts in float64 */
  constructor(network: Network, parts: readonly Part[], exact: boolean) {
    this.#network = network;
    this.#parts = parts;
    this.#links = linksOf(network);
    this.#Floats = exact ? (Float64Array as unknown as Float32ArrayConstructor) : Float32Array;
    this.#buffers = new Buffers(this.#Floats);
  }

  async forward(job: ForwardJob): Promise<void> {
    const { batch, seqLen, lengths, x, y, state, signal } = job;
    const [inWidth, outWidth] = [inputWidth(this.#network), outputWidth(this.#network)];
    const padding = paddingOf(this.#network);
    const span = segmentTokens(this.#network, batch);
    const buffers = new Buffers(this.#Floats);
    const read = [...state.count];
    const padded = lengths.map((length) => Math.ceil(length / padding) * padding);
    const longest = padded.reduce((most, length) => Math.max(most, length), 0);
    const pooled = this.#links.at(-1)?.kind === "hold";
    let yielded = performance.now();
    const drive = async (rows: Rows, from: State): Promise<Rows> => {
      const walk = this.#walk(rows, from, buffers);
      for (let next = walk.next(); ; next = walk.next()) {
        throwIfAborted(signal);
        if (next.done) return next.value;
        const { index, x, y, state } = next.value;
        const rest = { batch, threads: job.threads, signal, onProgress: undefined };
        const part = { seqLen: x.seqLen, lengths: x.counts, x: x.data, y, state };
        await (this.#parts[index] as Runner).forward({ ...rest, ...part });
        if (performance.now() - yielded < YIELD_MS) continue;
        await macrotask();
        yielded = performance.now();
      }
    };
    for (let start = 0; start < longest; start += span) {
      const counts = padded.map((length) => Math.max(0, Math.min(length - start, span)));
      const tokens = Math.min(longest - start, span);
      // x itself is float32, or holds the bits of ids.
      const data = new Float32Array(batch * tokens * inWidth);
      const each = (row: number) => Math.max(0, Math.min((lengths[row] as number) - start, tokens));
      for (let row = 0; row < batch; row++) {
        const from = (row * seqLen + start) * inWidth;
        data.set(x.subarray(from, from + each(row) * inWidth), row * tokens * inWidth);
      }
      const end = await drive({ data, seqLen: tokens, counts }, state);
      if (pooled) y.set(end.data);
      else {
        for (let row = 0; row < batch; row++) {
          const from = row * end.seqLen * outWidth;
          y.set(end.data.subarray(from, from + each(row) * outWidth), (row * seqLen + start) * outWidth);
        }
      }
      if (start + span < longest) job.onProgress?.(batch * (start + span));
    }
    for (let row = 0; row < batch; row++) {
      const length = lengths[row] as number;
      state.restartRow(row, (read[row] as number) + length);
      if (!pooled) y.fill(0, (row * seqLen + length) * outWidth, (row + 1) * seqLen * outWidth);
    }
    if (pooled && lengths.some((length) => length < seqLen)) {
      // The last windows of rows that end before the others. What follows a row in time must not see them: a copy does.
      const none = { data: new this.#Floats(0), seqLen: 0, counts: new Int32Array(batch) };
      const end = await drive({ ...none, totals: read.map((count) => count + seqLen) }, state.clone());
      for (let row = 0; row < batch; row++) {
        const from = row * outWidth;
        if (end.counts[row]) y.set(end.data.subarray(from, from + outWidth), from);
      }
    }
    job.onProgress?.(batch * seqLen);
  }

  step(x: Float32Array, y: Float32Array, state: State): void {
    const { batch } = state;
    const walk = this.#walk(
      { data: x, seqLen: 1, counts: new Int32Array(batch).fill(1) },
      state,
      this.#buffers,
    );
    let next = walk.next();
    for (; !next.done; next = walk.next()) stepSome(this.#parts[next.value.index] as Stepper, next.value);
    y.set(next.value.data);
    for (let row = 0; row < batch; row++) state.restartRow(row, (state.count[row] as number) + 1);
  }

  dispose(): void {
    for (const part of this.#parts) part.dispose?.();
  }

  /** Takes rows through the links. A part that none of them reaches is left out. */
  *#walk(rows: Rows, state: State, buffers: Buffers): Generator<PartRun, Rows, void> {
    const { batch } = state;
    const at = new Map([[0, rows]]);
    let index = 0;
    for (const [i, link] of this.#links.entries()) {
      const x = at.get(link.src) as Rows;
      const own = state.parts[i] as State;
      const width = slotWidth(this.#network, link.dst);
      const make = (seqLen: number) => buffers.take(i, batch * seqLen * width);
      let y = x;
      if (link.kind === "part") {
        const pools = link.program.stages.some(({ kind }) => kind === "pool");
        const counts = pools ? x.counts.map((count) => Math.min(count, 1)) : x.counts;
        const seqLen = pools ? 1 : x.seqLen;
        y = { ...x, data: make(seqLen), seqLen, counts };
        if (x.counts.some((count) => count > 0)) yield { index, x, y: y.data, state: own };
        index++;
      } else if (link.kind === "reshape") {
        const rate = link.inWidth / link.outWidth;
        y = { ...x, seqLen: x.seqLen * rate, counts: x.counts.map((count) => count * rate) };
      } else if (link.kind === "add") {
        const other = (at.get(link.other) as Rows).data;
        y = { ...x, data: make(x.seqLen) };
        for (let j = 0; j < y.data.length; j++) y.data[j] = (x.data[j] as number) + (other[j] as number);
      } else if (link.kind === "shift") y = { ...x, data: shift(link, x, own, make(x.seqLen)) };
      else if (link.kind === "hold") y = { ...x, data: hold(link, x, own, make(1)) };
      else y = pool(link, x, own, make);
      at.set(link.dst, y);
    }
    return at.get(this.#network.output) as Rows;
  }
}

/** Memory by link, kept from segment to segment. */
class Buffers {
  readonly #Floats: Float32ArrayConstructor;
  readonly #arrays: Float32Array[] = [];

  constructor(Floats: Float32ArrayConstructor) {
    this.#Floats = Floats;
  }

  take(link: number, length: number): Float32Array {
    let array = this.#arrays[link];
    if (!array || array.length < length) array = this.#arrays[link] = new this.#Floats(length);
    return array.subarray(0, length);
  }
}

/** A step of those rows that have a new token here: with windows that rows are in at different places, not all have. */
function stepSome(part: Stepper, { x: { data, counts }, y, state }: PartRun): void {
  const rows = Int32Array.from(counts.keys()).filter((row) => counts[row]);
  if (rows.length === counts.length) {
    part.step(data, y, state);
    return;
  }
  const [inWidth, outWidth] = [data.length / counts.length, y.length / counts.length];
  const [xs, ys] = [data.slice(0, rows.length * inWidth), y.slice(0, rows.length * outWidth)];
  const some = state.pick(rows);
  for (const [i, row] of rows.entries())
    xs.set(data.subarray(row * inWidth, (row + 1) * inWidth), i * inWidth);
  part.step(xs, ys, some);
  for (const [i, row] of rows.entries()) y.set(ys.subarray(i * outWidth, (i + 1) * outWidth), row * outWidth);
  state.put(rows, some);
}

function carryOf(state: State, row: number): Float64Array {
  return state.carry(state.layout.slots[0] as StateSlot, row);
}

/** y[t] = x[t - 1] */
function shift(
  { width }: ShiftStage,
  { data, seqLen, counts }: Rows,
  state: State,
  y: Float32Array,
): Float32Array {
  counts.forEach((count, row) => {
    const last = carryOf(state, row);
    const [from, to] = [row * seqLen * width, (row * seqLen + count) * width];
    if (count === 0) return;
    y.set(last.subarray(0, width), from);
    y.set(data.subarray(from, to - width), from + width);
    last.set(data.subarray(to - width, to));
  });
  return y;
}

function hold({ width }: HoldStage, { data, counts }: Rows, state: State, y: Float32Array): Float32Array {
  counts.forEach((count, row) => {
    const last = carryOf(state, row);
    if (count > 0) {
      last.set(data.subarray(row * width, (row + 1) * width));
      state.restartRow(row, 1);
    }
    if (state.count[row]) y.set(last.subarray(0, width), row * width);
    else y.fill(Number.NaN, row * width, (row + 1) * width);
  });
  return y;
}

/**
 * Pools the windows that end in x. At the end of ragged rows, with `totals`, also the window that a row ends inside, if
 * the longest row would fill it: its mean counts what is missing as zeros, its maximum does not count it.
 */
function pool(
  { mode, width, factor }: WindowStage,
  { data, seqLen, counts, totals }: Rows,
  state: State,
  make: (seqLen: number) => Float32Array,
): Rows {
  const most = totals ? 1 : Math.ceil(seqLen / factor);
  const y = make(most);
  const windows = counts.map((tokens, row) => {
    let at = row * most * width;
    const first = at;
    const open = mode === "stride" ? undefined : carryOf(state, row);
    let count = state.count[row] as number;
    const emit = () => {
      for (let j = 0; j < width; j++) y[at++] = (open?.[j] as number) / (mode === "mean" ? factor : 1);
    };
    for (let t = 0; t < tokens; t++, count++) {
      const from = (row * seqLen + t) * width;
      const phase = count % factor;
      if (!open) {
        if (phase > 0) continue;
        y.set(data.subarray(from, from + width), at);
        at += width;
        continue;
      }
      for (let j = 0; j < width; j++) {
        const [value, held] = [data[from + j] as number, open[j] as number];
        open[j] = phase === 0 ? value : mode === "max" ? Math.max(held, value) : held + value;
      }
      if (phase === factor - 1) emit();
    }
    const whole = Math.floor((totals?.[row] ?? 0) / factor);
    if (open && count % factor > 0 && count < whole * factor) emit();
    state.restartRow(row, count);
    return (at - first) / width;
  });
  const round = mode === "stride" ? Math.ceil : Math.floor;
  return { data: y, seqLen: most, counts: windows, totals: totals?.map((total) => round(total / factor)) };
}
