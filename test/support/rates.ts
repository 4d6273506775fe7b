/**
 * Networks whose rate changes, in float64 and as their source describes them: one row at a time, stage after stage over
 * the whole sequence. It shares nothing with the chain that runs them.
 */
import {
  type Network,
  outputWidth,
  readsOf,
  type Stage,
  slotWidth,
  type WindowStage,
} from "../../src/program.js";
import { type Rates, ratesOf } from "../../src/rates.js";
import { runReference } from "../../src/reference.js";

/** Has a network whose rate changes read a few tokens at a time, as one of many features does. */
export function shortenSegments(network: Network): void {
  const rates = ratesOf(network);
  if (rates) Object.assign(rates, { segmentTokens: () => 3 * rates.padding } satisfies Partial<Rates>);
}

/** One row's values: `rows` of [width], of which `length` are real; those of the longest row of the batch are all of them. */
export interface Sequence {
  readonly width: number;
  readonly rows: number;
  readonly length: number;
  readonly values: Float64Array;
  /** How far each of the rows is from the one before it, and how many of them stand for tokens of x: the others are 1. */
  readonly times?: Float64Array | undefined;
  readonly known?: number;
}

export interface Input {
  readonly x: ArrayLike<number>;
  readonly batch: number;
  readonly seqLen: number;
  readonly lengths?: ArrayLike<number> | null | undefined;
  readonly timesteps?: ArrayLike<number> | undefined;
}

/** y [batch, seqLen, width] or [batch, width], and what each stage gave for each row, by the stage's name and kind. */
export function runNetwork(network: Network, { x, batch, seqLen, lengths, timesteps }: Input) {
  const width = slotWidth(network, 0);
  const pools = network.stages.some(({ kind }) => kind === "pool");
  const outWidth = outputWidth(network);
  const y = new Float64Array(batch * (pools ? 1 : seqLen) * outWidth);
  const traces: Map<string, Sequence>[] = [];
  for (let row = 0; row < batch; row++) {
    const length = lengths?.[row] ?? seqLen;
    const own = Array.from({ length: seqLen * width }, (_, i) => x[row * seqLen * width + i] as number);
    const deltas = timesteps && Array.from({ length }, (_, t) => timesteps[row * seqLen + t] as number);
    const trace = runRow(network, own, seqLen, length, deltas);
    traces.push(trace);
    const end = [...trace.values()].at(-1) as Sequence;
    if (pools) y.set(end.values, row * outWidth);
    else y.set(end.values.subarray(0, length * outWidth), row * seqLen * outWidth);
  }
  return { y, traces };
}

function runRow(
  network: Network,
  x: readonly number[],
  seqLen: number,
  length: number,
  deltas: readonly number[] | undefined,
): Map<string, Sequence> {
  const trace = new Map<string, Sequence>();
  const slots: Sequence[] = [];
  const width = slotWidth(network, 0);
  // What folds is padded with zeros to whole windows of windows, each row for itself, and those zeros are tokens.
  let [rate, padding] = [1, 1];
  for (const stage of network.stages) {
    if (stage.kind !== "reshape") continue;
    rate *= stage.outWidth / stage.inWidth;
    padding = Math.max(padding, Math.round(rate));
  }
  const rows = padding === 1 ? seqLen : Math.ceil(length / padding) * padding;
  const values = new Float64Array(rows * width);
  values.set(x.slice(0, (padding === 1 ? rows : length) * width));
  const times = deltas && new Float64Array(rows).fill(1);
  times?.set(deltas as number[]);
  slots[0] = { width, rows, length: padding === 1 ? length : rows, values, times, known: length };
  /** Those that a rate had on the way down. */
  const timesOf = new Map([[rows, slots[0]]]);
  for (const stage of network.stages) {
    const [from, other] = readsOf(stage).map((slot) => slots[slot]) as [Sequence, Sequence?];
    const to = slotWidth(network, stage.dst);
    let result: Sequence;
    if (stage.kind === "window") result = pool(stage, from);
    else if (stage.kind === "reshape") {
      const change = stage.inWidth / stage.outWidth;
      result = { ...from, width: to, rows: from.rows * change, length: from.length * change };
      const known = change < 1 ? slower(from, Math.round(1 / change)) : timesOf.get(result.rows);
      result = { ...result, times: known?.times, known: known?.known as number };
      timesOf.set(result.rows, result);
    } else if (stage.kind === "shift") {
      const shifted = new Float64Array(from.values.length);
      shifted.set(from.values.subarray(0, from.values.length - to), to);
      result = { ...from, values: shifted };
    } else if (stage.kind === "add" || stage.kind === "glu") {
      const b = (other as Sequence).values;
      const gate = (v: number) => 1 / (1 + Math.exp(-v));
      result = {
        ...from,
        values: from.values.map((v, i) =>
          stage.kind === "add" ? v + (b[i] as number) : v * gate(b[i] as number),
        ),
      };
    } else result = single(stage, from, to);
    slots[stage.dst] = result;
    trace.set(`${stage.name} ${stage.kind}`, result);
  }
  return trace;
}

/** The mean of the times of those of each `factor` rows that stand for tokens of x. */
function slower({ rows, times, known = rows }: Sequence, factor: number) {
  const means =
    times &&
    Float64Array.from({ length: Math.floor(rows / factor) }, (_, i) => {
      const own = times.subarray(i * factor, Math.min((i + 1) * factor, known));
      return own.length === 0 ? 1 : own.reduce((sum, delta) => sum + delta, 0) / own.length;
    });
  return { times: means, known: Math.ceil(known / factor) };
}

/** A stage of one rate, as a program of its own. */
function single(stage: Stage, from: Sequence, to: number): Sequence {
  const { width, rows, length, values, times } = from;
  const program = {
    architecture: "one stage",
    slots: [width, to],
    stages: [{ ...stage, src: 0, dst: 1 }],
    output: 1,
  };
  if (stage.kind === "pool") {
    const real = values.subarray(0, length * width);
    const { y } = runReference(program, { x: real, batch: 1, seqLen: length });
    return { width, rows: 1, length: 1, values: y };
  }
  const x = stage.kind === "embedding" ? Int32Array.from(values) : values;
  const { y } = runReference(program, { x, batch: 1, seqLen: rows, timesteps: times });
  return { ...from, width: to, values: y };
}

function pool({ mode, factor }: WindowStage, from: Sequence): Sequence {
  const { width, rows, length, values, times } = from;
  const stride = mode === "stride";
  const count = stride ? Math.ceil(rows / factor) : Math.floor(rows / factor);
  const pooled = new Float64Array(count * width);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < width; j++) {
      const window = Array.from({ length: factor }, (_, k) => {
        const t = i * factor + k;
        return t < length ? (values[t * width + j] as number) : mode === "max" ? -1e9 : 0;
      });
      const first = window[0] as number;
      const mean = window.reduce((sum, v) => sum + v, 0) / factor;
      pooled[i * width + j] = stride ? first : mode === "max" ? Math.max(...window) : mean;
    }
  }
  const own = Math.min(count, Math.ceil(length / factor));
  // From the first token of a window to the first of the next.
  const apart =
    times &&
    Float64Array.from({ length: count }, (_, i) => {
      const since = times.subarray(Math.max(0, (i - 1) * factor + 1), Math.min(i * factor, length - 1) + 1);
      return i < own ? since.reduce((sum, delta) => sum + delta, 0) / since.length : 1;
    });
  const time = stride ? { times: apart, known: own } : slower({ ...from, known: length }, factor);
  return { width, rows: count, length: own, values: pooled, ...time };
}
