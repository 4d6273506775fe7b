/** What lies between the programs of a chain, in plain loops: delays, pooled windows, and the time that their tokens take. */
import type { ShiftStage, WindowStage } from "./program.js";
import type { HoldStage } from "./rates.js";
import type { State, StateSlot } from "./state.js";

/** [batch, seqLen, width] values, of which the first counts[row] of each row are there. */
export interface Rows {
  readonly data: Float32Array;
  readonly seqLen: number;
  readonly counts: Int32Array;
  /** How many there would be if every row were as long as the longest: only at the end of ragged rows. */
  readonly totals?: readonly number[] | undefined;
  /** The tokens' timesteps, if there are any. */
  readonly times?: Times | undefined;
}

/**
 * [batch, seqLen] for each token how far it is from the one before it, in the unit of its own rate: a slower token is as
 * far as the mean of those that it stands for, so that time is the same at every rate, and all 1 stays all 1.
 */
export interface Times {
  readonly data: Float32Array;
  /** [batch] those of them that stand for tokens of x; the others only fill up a row, and are 1. */
  readonly known: ArrayLike<number>;
}

/** The times of rows of which `factor` become one. */
export function slower({ data, known }: Times, seqLen: number, factor: number): Times {
  const most = seqLen / factor;
  const sums = data.slice(0, data.length / factor).fill(1);
  const folded = Array.from(known, (tokens) => Math.ceil(tokens / factor));
  for (const [row, windows] of folded.entries()) {
    for (let i = 0; i < windows; i++) {
      const count = Math.min(factor, (known[row] as number) - i * factor);
      let sum = 0;
      for (let t = 0; t < count; t++) sum += data[row * seqLen + i * factor + t] as number;
      sums[row * most + i] = sum / count;
    }
  }
  return { data: sums, known: folded };
}

function slotOf(state: State): StateSlot {
  return state.layout.slots[0] as StateSlot;
}

function carryOf(state: State, row: number): Float64Array {
  return state.carry(slotOf(state), row);
}

/** y[t] = x[t - 1] */
export function shift(
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

export function hold(
  { width }: HoldStage,
  { data, counts }: Rows,
  state: State,
  y: Float32Array,
): Float32Array {
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
export function pool(
  { mode, width, factor }: WindowStage,
  { data, seqLen, counts, totals, times }: Rows,
  state: State,
  make: (seqLen: number) => Float32Array,
  Floats: Float32ArrayConstructor,
): Rows {
  const most = totals ? 1 : Math.ceil(seqLen / factor);
  const y = make(most);
  const pooled = times && new Floats(counts.length * most).fill(1);
  const windows = counts.map((tokens, row) => {
    let given = 0;
    const open = carryOf(state, row);
    /** In its first value, how far the last token is from the last one that a window has given. */
    const apart = state.poolLoc(slotOf(state), row);
    let count = state.count[row] as number;
    const emit = (values: ArrayLike<number>, parts: number, tokensApart: number) => {
      const at = (row * most + given) * width;
      for (let j = 0; j < width; j++) y[at + j] = (values[j] as number) / parts;
      if (pooled) pooled[row * most + given] = (apart[0] as number) / tokensApart;
      apart[0] = 0;
      given++;
    };
    const parts = mode === "mean" ? factor : 1;
    for (let t = 0; t < tokens; t++, count++) {
      const token = row * seqLen + t;
      const from = token * width;
      const phase = count % factor;
      apart[0] = (apart[0] as number) + (times ? (times.data[token] as number) : 1);
      if (mode === "stride") {
        if (phase === 0) emit(data.subarray(from, from + width), 1, count === 0 ? 1 : factor);
        continue;
      }
      for (let j = 0; j < width; j++) {
        const [value, held] = [data[from + j] as number, open[j] as number];
        open[j] = phase === 0 ? value : mode === "max" ? Math.max(held, value) : held + value;
      }
      if (phase === factor - 1) emit(open, parts, factor);
    }
    const whole = Math.floor((totals?.[row] ?? 0) / factor);
    if (mode !== "stride" && count % factor > 0 && count < whole * factor) emit(open, parts, count % factor);
    state.restartRow(row, count);
    return given;
  });
  const round = mode === "stride" ? Math.ceil : Math.floor;
  return {
    data: y,
    seqLen: most,
    counts: windows,
    totals: totals?.map((total) => round(total / factor)),
    times: pooled && { data: pooled, known: windows },
  };
}
