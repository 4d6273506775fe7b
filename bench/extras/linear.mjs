/** Four times the tokens in four times the time, and memory that does not grow with them. */
import { createEngine } from "../linrec.mjs";
import { peakRss, resetPeakRss } from "../memory.mjs";
import { fillInput, paramsOf } from "../shapes.mjs";
import { median } from "../stats.mjs";

const SIZE = 16;
const ROUNDS = 15;

/** 1 Mi and 4 Mi tokens, one row, H = N = 16, in the engine's own memory. */
export async function measure({ threads, quick }) {
  const long = 4 * (quick ? 1 << 14 : 1 << 20);
  const engine = await createEngine({ backend: "wasm", threads });
  const layer = await engine.lru(paramsOf({ dModel: SIZE, dState: SIZE }));
  const x = fillInput(engine.allocate(long * SIZE));
  const out = engine.allocate(long * SIZE).fill(1); // written once, so that its pages count before and not after
  const run = (from, to) =>
    layer.forward(x.subarray(from * SIZE, to * SIZE), { out: out.subarray(from * SIZE, to * SIZE) });
  const timed = async (...tokens) => {
    const start = performance.now();
    await run(...tokens);
    return performance.now() - start;
  };
  // The threads are awake before; a quarter, then what four times that length adds.
  await run(0, 4096);
  const firstBytes = await memoryOf(() => run(0, long / 4));
  const extraBytes = await memoryOf(() => run(0, long));
  // The whole, then its quarters, each by itself: the same memory, and what else the machine does in these moments falls on both.
  const rounds = [];
  for (let round = 0; round < (quick ? 1 : ROUNDS); round++) {
    const longMs = await timed(0, long);
    let sum = 0;
    for (let at = 0; at < long; at += long / 4) sum += await timed(at, at + long / 4);
    rounds.push({ longMs, shortMs: sum / 4 });
  }
  const shortMs = median(rounds.map((round) => round.shortMs));
  const longMs = median(rounds.map((round) => round.longMs));
  const ratio = median(rounds.map((round) => round.longMs / round.shortMs));
  await engine.dispose();
  const where = threads ? `${threads} threads` : "calling thread";
  const lines = [
    `${where}: ${long / 4} tokens ${shortMs.toFixed(2)} ms, ${long} tokens ${longMs.toFixed(2)} ms: ${ratio.toFixed(3)} times, side by side in ${rounds.length} rounds`,
    `${where}: the first ${long / 4} tokens took ${mebibytes(firstBytes)} MiB of memory beyond x, y and what 4096 took, then the first ${long} tokens ${mebibytes(extraBytes)} MiB more`,
  ];
  return { threads, tokens: long, shortMs, longMs, ratio, firstBytes, extraBytes, lines };
}

/** Bytes of memory that a call takes beyond what the process has. */
async function memoryOf(call) {
  resetPeakRss();
  const before = process.memoryUsage.rss();
  await call();
  return Math.max(0, peakRss() - before);
}

const mebibytes = (bytes) => (bytes / 2 ** 20).toFixed(1);
