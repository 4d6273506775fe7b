/** Four times the tokens in four times the time, and memory that does not grow with them. */
import { createEngine } from "../linrec.mjs";
import { peakRss, resetPeakRss } from "../memory.mjs";
import { fillInput, paramsOf } from "../shapes.mjs";
import { inTurns, openCalm, sayCalm } from "./timing.mjs";

const SIZE = 16;

/** 1 Mi and 4 Mi tokens, one row, H = N = 16, in the engine's own memory. */
export async function measure({ threads, quick, peakKernels, best }) {
  const long = 4 * (quick ? 1 << 14 : 1 << 20);
  const engine = await createEngine({ backend: "wasm", threads });
  const layer = await engine.lru(paramsOf({ dModel: SIZE, dState: SIZE }));
  const x = fillInput(engine.allocate(long * SIZE));
  const out = engine.allocate(long * SIZE).fill(1); // written once, so that its pages count before and not after
  const run = (tokens) =>
    layer.forward(x.subarray(0, tokens * SIZE), { out: out.subarray(0, tokens * SIZE) });
  // Threads, their windows and optimised code are there before; what a longer sequence adds is what is looked for.
  await run(4096);
  resetPeakRss();
  const before = process.memoryUsage.rss();
  await run(long);
  const extra = Math.max(0, peakRss() - before);
  const { ms, calm } = await inTurns(
    { short: () => run(long / 4), long: () => run(long) },
    quick ? 1 : 7,
    1,
    await openCalm(peakKernels, best, Math.max(1, threads)),
  );
  const { short: shortMs, long: longMs } = ms;
  await engine.dispose();
  const ratio = longMs / shortMs;
  const where = threads ? `${threads} threads` : "calling thread";
  const lines = [
    `${where}: ${long / 4} tokens ${shortMs.toFixed(2)} ms, ${long} tokens ${longMs.toFixed(2)} ms: ${ratio.toFixed(3)} times; ${sayCalm(calm)}`,
    `${where}: the first ${long} tokens took ${(extra / 2 ** 20).toFixed(1)} MiB of memory beyond x, y and what 4096 took`,
  ];
  return { threads, tokens: long, shortMs, longMs, calm, ratio, extraBytes: extra, lines };
}
