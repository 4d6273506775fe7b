/** Steps of a cache's streams, or of some of them: what a step is given, checked. */
import { LinrecError } from "./errors.js";
import { checkReset, checkTimesteps, type StepOptions } from "./forwardOptions.js";
import { type GpuBuffer, type Ports, portsOf } from "./gpuBuffer.js";
import type { Inputs } from "./inputs.js";
import type { Input } from "./program.js";
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
  const { out, rows, reset } = options;
  if (rows !== undefined) checkRows(rows, batch);
  const streams = rows?.length ?? batch;
  const ports = portsOf(x, out);
  const { values, steps } = inputs.checkTokens(x, streams, many);
  const size = steps * streams * inputs.outputWidth;
  const given = options.integrationTimesteps;
  const ones = () => new Int32Array(steps * streams).fill(1);
  const timesteps = given === undefined ? given : checkTimesteps(given, ones(), 1);
  if (out !== undefined) inputs.checkOut(out, [values, timesteps], steps * streams, size);
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
