/** Integration timesteps as the GPU takes them: WGSL derives no lambda, so each value that occurs has a row in a table. */
import type { ForwardJob } from "../backend.js";
import { LinrecError } from "../errors.js";
import { eigenvalues, powerIm, powerRe } from "../params.js";
import type { StageParams } from "../program.js";

/** Values of Delta that a forward may have: more take longer to derive than the CPU takes for all. */
export const MOST_VALUES = 1024;

export interface Timesteps {
  /** [batch, seqLen] which of the values each token has; 0 past a row's length */
  readonly indices: Uint32Array;
  /** The values that occur. */
  readonly values: readonly number[];
}

/** Throws `unsupported` where there are too many values. */
export function timestepsOf({ timesteps, batch, seqLen, lengths }: ForwardJob): Timesteps | undefined {
  if (!timesteps) return undefined;
  const known = new Map<number, number>();
  const indices = new Uint32Array(timesteps.length);
  for (let row = 0; row < batch; row++) {
    for (let i = row * seqLen, end = i + (lengths[row] as number); i < end; i++) {
      const value = timesteps[i] as number;
      const index = known.get(value) ?? known.size;
      if (index === known.size) known.set(value, index);
      indices[i] = index;
    }
    if (known.size <= MOST_VALUES) continue;
    throw new LinrecError(
      "unsupported",
      `integrationTimesteps have over ${MOST_VALUES} different values: too many for the GPU. Round them, or use backend "wasm".`,
    );
  }
  return { indices, values: [...known.keys()] };
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
