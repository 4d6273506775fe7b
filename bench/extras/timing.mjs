/** Times of several ways to do one thing, taken in turns. */
import { median } from "../stats.mjs";

/** @param {Record<string, () => unknown>} ways -> median ms of each */
export async function inTurns(ways, rounds, ms) {
  const times = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
  for (let round = -1; round < rounds; round++) {
    for (const [name, run] of Object.entries(ways)) {
      await run();
      const start = performance.now();
      do {
        const before = performance.now();
        await run();
        if (round >= 0) times[name].push(performance.now() - before); // the first round warms up
      } while (performance.now() - start < ms);
    }
  }
  return Object.fromEntries(Object.entries(times).map(([name, list]) => [name, median(list)]));
}

/** A kernel's peak in this process: that of fused multiply-add, or of mul + add where there is none. */
export const bestKernel = ({ relaxed, baseline }) => (WebAssembly.validate(relaxed) ? relaxed : baseline);
