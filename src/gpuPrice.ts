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
/** Of the values of lambda^Delta that it is given, which the calling thread derives: 8 bytes in 50-70 ns. */
const TABLE_BYTES_PER_MS = 130_000;
const GOLDEN = (Math.sqrt(5) - 1) / 2;

/** About how many values there are, for a price: few, or one for each token. */
export function valuesOf(timesteps: Float32Array | undefined): number {
  if (!timesteps) return 0;
  const values = new Set<number>();
  const { length } = timesteps;
  const samples = Math.min(length, 1024);
  // All over the sequence, and in step with no period that the values may have.
  for (let i = 0; i < samples; i++) values.add(timesteps[Math.floor(length * ((GOLDEN * i) % 1))] as number);
  return values.size > samples / 2 ? Number.POSITIVE_INFINITY : values.size;
}

/** What a forward or a step is the sum of there, in ms. */
export function gpuPrice(work: Work, rates: GpuRates = SOFTWARE): Record<string, number> {
  const { batch, seqLen, flopsPerToken, dispatches = 0, roundTrips = 1, tables = 0 } = work;
  const tokens = batch * seqLen;
  const computed = batch * Math.ceil(seqLen / GPU_CHUNK) * GPU_CHUNK;
  // However few the tokens: what a thread of a layer waits for grows with the width of its sums.
  const waits = rates.layerMs * Math.sqrt(((dispatches / LAYER_DISPATCHES) * flopsPerToken) / LAYER_FLOPS);
  const many = computed * (flopsPerToken / rates.flopsPerMs + dispatches * rates.tokenMs);
  return {
    roundTrip: roundTrips * rates.roundTripMs,
    upload: (tokens * work.bytesIn + tables) / rates.uploadBytesPerMs,
    ...(tables && { timesteps: tables / TABLE_BYTES_PER_MS }),
    dispatches: roundTrips * dispatches * rates.dispatchMs,
    compute: tokens > 0 ? many + waits : 0,
    readback: (tokens * work.bytesOut) / rates.readbackBytesPerMs,
  };
}
