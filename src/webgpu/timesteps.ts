/** Integration timesteps as the GPU takes them: WGSL derives no lambda, so each value that occurs has a row in a table. */
import { eigenvalues } from "../params.js";
import type { StageParams } from "../program.js";
import type { Device } from "./device.js";
import { upload } from "./workspace.js";

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

/**
 * Uploads which row of the tables each token takes, and the rows that are new. Each table is of one LRU, and all of them are of
 * as many values. Within `Device.scoped`.
 */
export function uploadTimesteps(
  device: Device,
  known: Map<number, number>,
  timesteps: Float32Array,
  times: GPUBuffer,
  tables: readonly { readonly buffer: GPUBuffer; readonly params: StageParams }[],
): void {
  if (tables.length === 0) return;
  const rowBytes = (params: StageParams) => 8 * params.nuLog.length;
  const most = Math.min(...tables.map(({ buffer, params }) => Math.floor(buffer.size / rowBytes(params))));
  const { indices, first, values } = placeTimesteps(known, timesteps, most);
  upload(device, times, 0, indices);
  for (const { buffer, params } of values.length > 0 ? tables : [])
    upload(device, buffer, first * rowBytes(params), timedTable(params, values));
}

/**
 * lambda^Delta as [values, dState] of (re, im): derived in float64 and rounded once. By `Math`, whose last bits no GPU promises, and
 * which takes a third of the time: there may be a value for each token.
 */
function timedTable(params: StageParams, values: readonly number[]): Float32Array {
  const { nu, theta, nuIm } = eigenvalues(params);
  const table = new Float32Array(2 * values.length * nu.length);
  // 0 apart: where |lambda| = 0 the rate is infinite, and 0 * Infinity is NaN.
  const decay = (delta: number, rate = 0) => (delta === 0 ? 1 : Math.exp(-delta * rate));
  let at = 0;
  for (const delta of values) {
    for (let n = 0; n < nu.length; n++) {
      const radius = decay(delta, nu[n]);
      const angle = delta * (theta[n] as number);
      table[at++] = radius * Math.cos(angle);
      table[at++] = nuIm ? decay(delta, nuIm[n]) : radius * Math.sin(angle);
    }
  }
  return table;
}
