/**
 * What bench/gpu takes from the library's sources and the suite, since the package does not export it: internals.mjs
 * bundles this file.
 */

export { gpuPrice } from "../../src/engine/gpuPrice.js";
export { linearLimit } from "../../src/engine/selfTest.js";
export { toLruParams } from "../../src/models/lru.js";
export { openWebgpu } from "../../src/webgpu/backend.js";
export { goldenNames, initialState, loadGolden, relativeError } from "../../test/support/golden.js";
export { loadLrnnx } from "../../test/support/lrnnx.js";

import type { Network, Program } from "../../src/program.js";
import { liftingOf } from "../../src/webgpu/chooseLift.js";
import { isLifted } from "../../src/webgpu/lifting.js";
import { segmentOf } from "../../src/webgpu/pipelines.js";
import { makePlan } from "../../src/webgpu/plan.js";
import { T } from "../../src/webgpu/tiles.js";
import { trafficOf } from "../../src/webgpu/traffic.js";
import cases from "../../test/fixtures/lrnnx/cases.json" with { type: "json" };

export const lrnnxNames = cases.map(({ name }) => name);

/** Dispatches, and bytes read and written, of each kernel in a forward of one segment, as the library counts them. */
export function trafficByKernel(network: Network, batch: number, seqLen: number) {
  const program = network as Program;
  const lifting = liftingOf(program);
  const lift = isLifted({ lengths: new Int32Array(batch).fill(seqLen) }, lifting) ? lifting.lift : 1;
  const segment = { ...segmentOf(batch, seqLen), chunks: batch * Math.ceil(seqLen / lift / T) };
  const { kernels } = trafficOf(makePlan(program, false, lift), segment);
  const sums = new Map<string, { dispatches: number; bytes: number }>();
  for (const { kernel, touches } of kernels) {
    const { dispatches = 0, bytes = 0 } = sums.get(kernel) ?? {};
    const own = touches.reduce((sum, { read, written }) => sum + read + written, 0);
    sums.set(kernel, { dispatches: dispatches + 1, bytes: bytes + own });
  }
  return sums;
}
