/** The scheduler's cost model of a GPU: it comes with one. */
import type { GpuRates } from "../backend.js";
import type { Work } from "../scheduler.js";

/** What a software adapter reaches (SwiftShader on two cores); it is not measured. */
const SOFTWARE: GpuRates = {
  roundTripMs: 1,
  dispatchMs: 0.1,
  uploadBytesPerMs: 1e6,
  readbackBytesPerMs: 1e6,
  flopMs: 0,
  threadMs: 1.5e-3,
  loadMs: 3e-5,
  waitMs: 0,
};
/** Of the values of lambda^Delta that it is given, which the calling thread derives: 8 bytes in 40-60 ns. */
const TABLE_BYTES_PER_MS = 160_000;
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
  const { dispatches = 0, tables = 0, flops = 0, threads = 0, loads = 0, waits = 0 } = work;
  const tokens = work.batch * work.seqLen;
  return {
    roundTrip: rates.roundTripMs,
    upload: (tokens * work.bytesIn + tables) / rates.uploadBytesPerMs,
    ...(tables && { timesteps: tables / TABLE_BYTES_PER_MS }),
    dispatches: dispatches * rates.dispatchMs,
    compute: flops * rates.flopMs + threads * rates.threadMs + loads * rates.loadMs + waits * rates.waitMs,
    readback: (tokens * work.bytesOut) / rates.readbackBytesPerMs,
  };
}
