/** Steps of a cache's streams, or of some of them: what a step is given, checked; and how it is run. */
import type { Host, Prepared } from "../engine/host.js";
import { allocating } from "../errors.js";
import { parts } from "../parts.js";
import type { Input } from "../program.js";
import { type GpuBuffer, type Ports, portsOf } from "../runtime/gpuBuffer.js";
import type { State } from "../state.js";
import { checkOptions, holding } from "../validate.js";
import { checkRows } from "./cache.js";
import { checkReset, checkTimesteps, resetRows, type StepOptions } from "./forwardOptions.js";
import type { Inputs } from "./inputs.js";

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
  const timesteps =
    given === undefined ? given : checkTimesteps(given, new Int32Array(steps * streams).fill(1), 1);
  if (out !== undefined) inputs.checkOut(out, [values, timesteps], steps * streams, size);
  checkReset(reset, steps * streams, many ? "[steps, streams]" : "[batch]");
  const own = () => allocating("y", () => new Float32Array(size));
  const y = ports?.y ? new Float32Array(0) : ((out as Float32Array | undefined) ?? own());
  return { x: values, y, ports, steps, streams, rows, timesteps, reset };
}

/** Whether it is the GPU that steps. */
export function stepsOnGpu(host: Host, { program }: Prepared, streams: number): boolean {
  return streams > 0 && host.plan("step", program, streams, 1).backend === "webgpu";
}

/** A step on the calling thread. */
export function stepHere({ stepper }: Prepared, steps: Steps, state: State): Float32Array {
  const { x, y, streams, rows, timesteps, reset } = steps;
  if (streams === 0) return y;
  // What is reset is a copy, for there may be no memory for the step.
  const resets = reset && [].some.call(reset, Boolean);
  const some = rows ? state.pick(rows) : resets ? state.clone() : state;
  resetRows(some, reset);
  stepper.step(x, y, some, timesteps);
  if (rows) state.put(rows, some);
  else if (resets) state.copyFrom(some);
  return y;
}

/**
 * Steps wherever forwards run, on a copy of the streams, which `state` gets when all is done.
 * @param asForward as one; else one by one
 * @param checkUsable throws where the layer or the engine has been disposed of
 */
export async function stepAway(
  host: Host,
  prepared: Prepared,
  all: Steps,
  state: State,
  asForward: boolean,
  checkUsable: () => void,
): Promise<Float32Array> {
  const { x, y, timesteps } = all;
  // Their owner may go on.
  const rows = all.rows?.slice();
  const { length } = all.reset ?? [];
  const reset = all.reset && Uint8Array.from({ length }, (_, i) => (all.reset?.[i] ? 1 : 0));
  if (y.length === 0) return y;
  const some = rows ? state.pick(rows) : state.clone();
  const intact = holding(x, y, timesteps);
  const { stepThrough } = await parts.steps();
  const check = () => {
    checkUsable(); // it takes a while
    intact();
  };
  check();
  const stepping = {
    forward: (job: Parameters<Host["forward"]>[1]) => host.forward(prepared, { ...job, intact }, undefined),
    onGpu: (streams: number) => stepsOnGpu(host, prepared, streams),
    here: (step: Steps, state: State) => void stepHere(prepared, step, state),
    check,
  };
  await stepThrough({ ...all, reset }, some, stepping, asForward);
  if (rows) state.put(rows, some);
  else state.copyFrom(some);
  return y;
}
