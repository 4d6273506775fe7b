/** Integration timesteps as the GPU takes them: WGSL derives no lambda, so each value that occurs has a row in a table. */
import { eigenvalues, powerIm, powerRe } from "../params.js";
import type { StageParams } from "../program.js";

/**
 * The row that each token's timestep has in tables of so many rows, as many as tokens at least; and the values that have none
 * yet, whose rows are those from `first` on. `known` is what the tables have and will have: where they become too full, all of
 * them start anew.
 */
export function placeTimesteps(
  known: Map<number, number>,
  timesteps: Float32Array,
  rows: number,
): { indices: Uint32Array; first: number; values: number[] } {
  const indices = new Uint32Array(timesteps.length);
  const first = known.size;
  const values: number[] = [];
  for (const [i, value] of timesteps.entries()) {
    let row = known.get(value);
    if (row === undefined) {
      row = known.size;
      if (row === rows) {
        known.clear();
        return placeTimesteps(known, timesteps, rows);
      }
      known.set(value, row);
      values.push(value);
    }
    indices[i] = row;
  }
  return { indices, first, values };
}

/** lambda^Delta as [values, dState] of (re, im): derived in float64 and rounded once. */
export function timedTable(params: StageParams, values: readonly number[]): Float32Array {
  const eigen = eigenvalues(params);
  const table = new Float32Array(2 * values.length * params.nuLog.length);
  let at = 0;
  for (const delta of values) {
    for (let n = 0; n < params.nuLog.length; n++) {
      table[at++] = powerRe(eigen, n, delta);
      table[at++] = powerIm(eigen, n, delta);
    }
  }
  return table;
}
