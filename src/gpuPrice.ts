/** The scheduler's cost model of a GPU: it comes with one. */
import type { GpuRates } from "./backend.js";
import { lruFlops } from "./program.js";
import type { Work } from "./scheduler.js";

/** What a software adapter reaches (SwiftShader on two cores); it is not measured. */
const SOFTWARE: GpuRates = {
  roundTripMs: 5,
  dispatchMs: 0.2,
  uploadBytesPerMs: 1e6,
  readbackBytesPerMs: 1e6,
  flopsPerMs: 4e5,
  tokenMs: 0.005,
  layerMs: 0,
};
/** What GpuRates.layerMs is of: dModel and dState of 256, and a single chunk. */
const LAYER_FLOPS = lruFlops(256, 256);
const LAYER_DISPATCHES = 2;
/** A GPU computes whole chunks, however short a row. */
const GPU_CHUNK = 32;

/** What a forward or a step is the sum of there, in ms. */
export function gpuPrice(work: Work, rates: GpuRates = SOFTWARE): Record<string, number> {
  const { batch, seqLen, flopsPerToken, dispatches = 0, roundTrips = 1 } = work;
  const tokens = batch * seqLen;
  const computed = batch * Math.ceil(seqLen / GPU_CHUNK) * GPU_CHUNK;
  // However few the tokens: what a thread of a layer waits for grows with the width of its sums.
  const waits = rates.layerMs * Math.sqrt(((dispatches / LAYER_DISPATCHES) * flopsPerToken) / LAYER_FLOPS);
  const many = computed * (flopsPerToken / rates.flopsPerMs + dispatches * rates.tokenMs);
  return {
    roundTrip: roundTrips * rates.roundTripMs,
    upload: (tokens * work.bytesIn) / rates.uploadBytesPerMs,
    dispatches: roundTrips * dispatches * rates.dispatchMs,
    compute: tokens > 0 ? many + waits : 0,
    readback: (tokens * work.bytesOut) / rates.readbackBytesPerMs,
  };
}
