/** A forward before it is run: what the scheduler is told of it; and one that is so short that it is run at once. */
import type { PlainJob } from "../backend.js";
import { allocating } from "../errors.js";
import { halvesOf, waysOf } from "../networks/hidden.js";
import { flopsPerToken, inputWidth, type Network, outputWidth, poolOf, statesPerToken } from "../program.js";
import { partsOf, ratesOf } from "../rates.js";
import type { Work } from "../scheduler.js";
import type { Stepper } from "./host.js";
import type { Machine } from "./machine.js";

/** Runs a forward with none of its preparations, if it wants none. */
export function runAtOnce(stepper: Stepper, program: Network, job: PlainJob): boolean | undefined {
  const { x, y, state, timesteps, seqLen, lengths, every = 1 } = job;
  const isStep = seqLen === 1 && every === 1 && !waysOf.has(program) && !ratesOf(program);
  if (isStep && lengths.every((length) => length === 1)) {
    allocating("a step", () => stepper.step(x, y, state, timesteps));
    return true;
  }
  try {
    return stepper.atOnce?.(job);
  } catch {
    return false; // whoever runs it next meets that as well, and says so
  }
}

/** What the scheduler is told of it. */
export function workOf(machine: Machine, whole: Network, batch: number, seqLen: number, timed = 0): Work {
  const program = halvesOf(whole)?.lean ?? whole;
  const rates = ratesOf(program);
  return {
    batch,
    seqLen,
    flopsPerToken: flopsPerToken(program),
    states: statesPerToken(program),
    timed,
    bytesIn: 4 * inputWidth(program),
    bytesOut: poolOf(program) ? 0 : 4 * outputWidth(program),
    ...machine.passes(program, batch, seqLen, timed),
    calls: rates ? partsOf(program).length * Math.ceil(seqLen / rates.segmentTokens(batch)) : 1,
  };
}
