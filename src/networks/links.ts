/**
 * What lies between the programs of a chain: how many rows each link makes of how many, whatever is in them, and in plain
 * loops what it makes: delays, pooled windows, and the time that their tokens take.
 */
import type { Network, ShiftStage, WindowStage } from "../program.js";
import { type HoldStage, type Link, partsOfWindow, type Rates, ratesOf } from "../rates.js";
import { carryOf, type State, type StateSlot } from "../state.js";

/** [batch, seqLen, width] values, of which the first counts[row] of each row are there. */
export interface Rows extends Shape {
  readonly data: Float32Array;
}

export interface Shape {
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

/** A link, and the rows that it reads and makes. */
export interface Leg {
  readonly link: Link;
  readonly state: State;
  readonly x: Shape;
  readonly y: Shape;
  /** Of each row, where the link pools them; else none. */
  readonly windows: readonly (readonly Window[])[];
}

/** Tokens of a row that become one, as far as they are there. */
interface Window {
  readonly first: number;
  tokens: number;
  /** It goes on with what the state holds of it. */
  readonly joins: boolean;
  /** The row of y that it gives; -1 as long as it is open. */
  gives: number;
}

/** The way of some rows through all links. The counts of what pools are advanced: what it holds is not. */
export function legsOf(
  network: Network,
  rows: Shape,
  state: State,
  Floats: Float32ArrayConstructor,
): readonly Leg[] {
  const at = new Map([[0, rows]]);
  return (ratesOf(network) as Rates).links.map((link, i): Leg => {
    const x = at.get(link.src) as Shape;
    const own = state.parts[i] as State;
    let [y, windows]: [Shape, readonly Window[][]] = [x, []];
    if (link.kind === "part" && link.program.stages.some(({ kind }) => kind === "pool"))
      y = { ...x, seqLen: 1, counts: x.counts.map((count) => Math.min(count, 1)) };
    else if (link.kind === "reshape") {
      const rate = link.inWidth / link.outWidth;
      const seqLen = x.seqLen * rate;
      // What comes back to a rate finds the times that it had.
      const known = () => [...at.values()].find((other) => other.seqLen === seqLen)?.times;
      const times = rate < 1 ? x.times && slower(x.times, x.seqLen, 1 / rate) : known();
      y = { ...x, seqLen, counts: x.counts.map((count) => count * rate), times };
    } else if (link.kind === "window") [y, windows] = windowsOf(link, x, own, Floats);
    at.set(link.dst, y);
    return { link, state: own, x, y, windows };
  });
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

/** y[t] = x[t - 1] */
export function shift(
  { width }: ShiftStage,
  data: Float32Array,
  { x: { seqLen, counts }, state }: Leg,
  y: Float32Array,
): void {
  counts.forEach((count, row) => {
    const last = carryOf(state, row);
    const [from, to] = [row * seqLen * width, (row * seqLen + count) * width];
    if (count === 0) return;
    y.set(last.subarray(0, width), from);
    y.set(data.subarray(from, to - width), from + width);
    last.set(data.subarray(to - width, to));
  });
}

export function hold(
  { width }: HoldStage,
  data: Float32Array,
  { x: { counts }, state }: Leg,
  y: Float32Array,
): void {
  counts.forEach((count, row) => {
    const last = carryOf(state, row);
    if (count > 0) {
      last.set(data.subarray(row * width, (row + 1) * width));
      state.restartRow(row, 1);
    }
    if (state.count[row]) y.set(last.subarray(0, width), row * width);
    else y.fill(Number.NaN, row * width, (row + 1) * width);
  });
}

/**
 * The windows that x's tokens are in. At the end of ragged rows, with `totals`, also the window that a row ends inside, if
 * the longest row would fill it: its mean counts what is missing as zeros, its maximum does not count it.
 */
function windowsOf(
  { mode, factor }: WindowStage,
  { seqLen, counts, totals, times }: Shape,
  state: State,
  Floats: Float32ArrayConstructor,
): [Shape, Window[][]] {
  const most = totals ? 1 : Math.ceil(seqLen / factor);
  const pooled = times && new Floats(counts.length * most).fill(1);
  const given = new Int32Array(counts.length);
  const windows = Array.from(counts, (tokens, row) => {
    const own: Window[] = [];
    /** In its first value, how far the last token is from the last one that a window has given. */
    const apart = state.poolLoc(slotOf(state), row);
    let count = state.count[row] as number;
    const give = (window: Window, tokensApart: number) => {
      const to = given[row] as number;
      window.gives = to;
      if (pooled) pooled[row * most + to] = (apart[0] as number) / tokensApart;
      apart[0] = 0;
      given[row] = to + 1;
    };
    const open = (first: number, joins: boolean) => {
      const window = { first, tokens: 0, joins, gives: -1 };
      own.push(window);
      return window;
    };
    let window: Window | undefined;
    for (let t = 0; t < tokens; t++, count++) {
      const phase = count % factor;
      apart[0] = (apart[0] as number) + (times ? (times.data[row * seqLen + t] as number) : 1);
      if (mode === "stride" && phase > 0) continue;
      if (phase === 0 || !window) window = open(t, phase > 0);
      window.tokens++;
      if (mode === "stride") give(window, count === 0 ? 1 : factor);
      else if (phase === factor - 1) give(window, factor);
    }
    const whole = Math.floor((totals?.[row] ?? 0) / factor);
    if (mode !== "stride" && count % factor > 0 && count < whole * factor)
      give(window ?? open(0, true), count % factor);
    state.restartRow(row, count);
    return own;
  });
  const round = mode === "stride" ? Math.ceil : Math.floor;
  const y = {
    seqLen: most,
    counts: given,
    totals: totals?.map((total) => round(total / factor)),
    times: pooled && { data: pooled, known: given },
  };
  return [y, windows];
}

/** Whether a row's tokens since the last one that a window has given are all 1 apart. */
export function isUntimed({ mode, factor }: WindowStage, state: State, row: number): boolean {
  const count = state.count[row] as number;
  const tokens = mode === "stride" && count > 0 ? count - 1 : count;
  return state.poolLoc(slotOf(state), row)[0] === tokens % factor;
}

/** Pools the windows of a leg. */
export function pool(
  stage: WindowStage,
  data: Float32Array,
  { x, y, state, windows }: Leg,
  into: Float32Array,
): void {
  const { mode, width } = stage;
  const parts = partsOfWindow(stage);
  for (const [row, own] of windows.entries()) {
    const open = mode === "stride" ? new Float64Array(width) : carryOf(state, row);
    for (const { first, tokens, joins, gives } of own) {
      let from = (row * x.seqLen + first) * width;
      const end = from + tokens * width;
      if (!joins) for (let j = 0; j < width; j++, from++) open[j] = data[from] as number;
      for (; from < end; from += width) foldInto(open, mode, data, from, width);
      const to = (row * y.seqLen + gives) * width;
      for (let j = 0; gives >= 0 && j < width; j++) into[to + j] = (open[j] as number) / parts;
    }
  }
}

/** Of its own, with a loop for each mode, which is how the engine compiles it well. */
function foldInto(
  open: Float64Array,
  mode: WindowStage["mode"],
  data: Float32Array,
  from: number,
  width: number,
): void {
  if (mode === "max")
    for (let j = 0; j < width; j++) open[j] = Math.max(open[j] as number, data[from + j] as number);
  else for (let j = 0; j < width; j++) open[j] = (open[j] as number) + (data[from + j] as number);
}
