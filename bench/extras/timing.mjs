/** Times of several ways to do one thing, taken in turns. */
import { isCalm, Probe } from "../calm.mjs";
import { leastProbe, median, timesOf } from "../stats.mjs";

/** Medians of fewer calm runs than this are not taken. */
const FEWEST_CALM = 5;

/** A probe of this process for `inTurns`; `best` is the fastest that the parent has seen. */
export const openCalm = async ({ baseline }, best, threads) => ({
  probe: await Probe.open(baseline, threads),
  best,
});

/**
 * @param {Record<string, () => unknown>} ways
 * @returns {Promise<{ ms: Record<string, number>, calm: number }>} medians; if calm > 0, those of calm runs alone (../calm.mjs), of
 *   which every way had at least that many
 */
export async function inTurns(ways, rounds, ms, { probe, best }) {
  const names = Object.keys(ways);
  const runs = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = -1; round < rounds; round++) {
    for (const name of names) {
      const timed = async () => {
        const start = performance.now();
        await ways[name]();
        return performance.now() - start;
      };
      const taken = await probe.around(timed, ms, true);
      if (round >= 0) runs[name].push(...taken); // the first round warms up
    }
  }
  const lowest = Math.min(best, ...names.map((name) => leastProbe(runs[name])));
  const calm = names.map((name) => [name, runs[name].filter((run) => isCalm(run, lowest))]);
  const fewest = Math.min(...calm.map(([, runs]) => runs.length));
  const isEnough = fewest >= FEWEST_CALM;
  const chosen = isEnough ? calm : Object.entries(runs);
  const medians = chosen.map(([name, runs]) => [name, median(timesOf(runs))]);
  return { ms: Object.fromEntries(medians), calm: isEnough ? fewest : 0 };
}

export const sayCalm = (calm) => (calm > 0 ? `${calm} calm runs or more each` : "the machine was not calm");
