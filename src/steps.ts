/** Steps of a cache's streams, or of some of them: what a step is given, checked, and put in the order of a forward. */
import type { ForwardJob } from "./backend.js";
import { LinrecError } from "./errors.js";
import { checkReset, checkTimesteps, readResets, type StepOptions } from "./forwardOptions.js";
import { type GpuBuffer, type Ports, portsOf } from "./gpuBuffer.js";
import type { Inputs } from "./inputs.js";
import type { Input } from "./program.js";
import type { State } from "./state.js";
import { checkInt32, checkOptions } from "./validate.js";

/** Checked: x [steps, streams, inputWidth] -> y [steps, streams, outputWidth] of the cache's `rows`, or of all. */
export interface Steps {
  readonly x: Float32Array;
  readonly y: Float32Array;
  readonly ports: Ports | undefined;
  readonly steps: number;
  readonly streams: number;
  readonly rows: Int32Array | undefined;
  /** [steps, streams] */
  readonly timesteps: Float32Array | undefined;
  /** [steps, streams] */
  readonly reset: ArrayLike<number | boolean> | undefined;
}

/** @param many whether x may have more steps than one */
export function checkSteps(
  inputs: Inputs,
  x: Input | GpuBuffer,
  batch: number,
  options: StepOptions<Float32Array | GpuBuffer>,
  many: boolean,
): Steps {
  checkOptions("step's options", options, ["out", "rows", "integrationTimesteps", "reset"]);
  const { out, rows, integrationTimesteps: timesteps, reset } = options;
  if (rows !== undefined) checkRows(rows, batch);
  const streams = rows?.length ?? batch;
  const ports = portsOf(x, out);
  const { values, steps } = inputs.checkTokens(x, streams, many);
  const size = steps * streams * inputs.outputWidth;
  if (out !== undefined) inputs.checkOut(out, values, steps * streams, size);
  if (timesteps !== undefined) checkTimesteps(timesteps, new Int32Array(steps * streams).fill(1), 1);
  checkReset(reset, steps * streams, many ? "[steps, streams]" : "[batch]");
  const y = ports?.y ? new Float32Array(0) : ((out as Float32Array | undefined) ?? new Float32Array(size));
  return { x: values, y, ports, steps, streams, rows, timesteps, reset };
}

/** Each row at most once: a stream cannot be in two places of one step. */
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
        `${what}, as rows[${rows.indexOf(row)}] is: a step advances a row once. Leave it out, or use stepMany.`,
      );
    }
    seen[row] = 1;
  });
}

/** All the steps as a forward of [streams, steps]: the same bits. `state` is the streams' own, and is advanced. */
export function asForward(all: Steps, state: State): Omit<ForwardJob, "threads"> {
  const { steps, streams } = all;
  const { reset, timesteps, x, y } = all;
  const turn = <V extends Float32Array | Uint8Array>(values: V) => turned(values, steps, streams);
  const lengths = new Int32Array(streams).fill(steps);
  const mask = reset && turn(Uint8Array.from(reset as ArrayLike<number>, Number));
  return {
    batch: streams,
    seqLen: steps,
    lengths,
    x: turn(x),
    y: steps === 1 || streams === 1 ? y : new Float32Array(y.length),
    state,
    timesteps: timesteps && turn(timesteps),
    resets: readResets(mask, lengths, steps, state),
    signal: undefined,
    onProgress: undefined,
  };
}

/** One of the steps, as steps. */
export function stepOf({ x, y, ports, steps, streams, rows, timesteps, reset }: Steps, t: number): Steps {
  const part = (values: Float32Array) =>
    values.subarray((t * values.length) / steps, ((t + 1) * values.length) / steps);
  return {
    x: part(x),
    y: part(y),
    ports,
    steps: 1,
    streams,
    rows,
    timesteps: timesteps && part(timesteps),
    reset: reset && Array.from({ length: streams }, (_, i) => reset[t * streams + i] as number),
  };
}

/** [outer, inner, width] -> [inner, outer, width]; the same array where that is the same. */
export function turned<V extends Float32Array | Uint8Array>(values: V, outer: number, inner: number): V {
  if (outer === 1 || inner === 1) return values;
  const result = values.slice() as V;
  const width = values.length / (outer * inner);
  const [a, b] = [wordsOf(values), wordsOf(result)];
  for (let i = 0, from = 0; i < outer; i++) {
    for (let j = 0; j < inner; j++) {
      let to = (j * outer + i) * width;
      for (const end = from + width; from < end; from++) b[to++] = a[from] as number;
    }
  }
  return result;
}

/** Copied as integers, the bits of a NaN and of a token id stay what they are. */
function wordsOf(values: Float32Array | Uint8Array): Uint32Array | Uint8Array {
  if (values.BYTES_PER_ELEMENT === 1) return values as Uint8Array;
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}
