// Worker threads are ended from outside while work is under way.
import { floats, lruParams, quantile, sameResult, settled, undisturbed, watchWorkers } from "../support.mjs";

export default {
  promise: "A worker that dies costs time, never a result: every promise settles, with the right bits.",
  how: "Of 10,000 forwards on two workers, four at a time, a worker is ended from outside during every 7th.",
  plants: [
    {
      says: "a worker's exit is not noticed",
      file: "src/cpu/pool.ts",
      find: 'on("exit"',
      replace: 'on("exited"',
    },
  ],
  async run({ linrec, isFull, fail }) {
    const jobs = isFull ? 10_000 : 210;
    const alive = watchWorkers();
    const params = lruParams(linrec, 32, 32);
    const batch = 2;
    // In a short forward the calling thread takes part, in longer ones the workers are alone.
    const inputs = [2500, 20_000, 25_000].map((seqLen, seed) => floats(batch * seqLen * 32, seed));
    const { oracle, expected, ...alone } = await undisturbed(linrec, params, inputs, { batch });
    const engine = await linrec.createEngine({ backend: "wasm", threads: 2, onFallback: () => {} });
    const lru = await engine.lru(params);

    let [killed, wrong, lost, rejected] = [0, 0, 0, 0];
    const [calm, recoveries] = [[], []];
    const one = async (i) => {
      const kill = i % 7 === 6;
      const start = performance.now();
      const forward = lru.forward(inputs[i % 3], { batch });
      if (kill) {
        setTimeout(() => {
          killed += alive.length > 0 ? 1 : 0;
          alive.at(-1 - (i % 2))?.terminate();
        }, i % 5);
      }
      const outcome = await settled(forward, 60_000);
      (kill ? recoveries : calm).push(performance.now() - start);
      if (outcome === "late") lost++;
      else if (outcome.error) rejected++;
      else if (!sameResult(lru, outcome.value, oracle, expected[i % 3])) wrong++;
    };
    for (let first = 0; first < jobs && lost === 0; first += 4) {
      await Promise.all([0, 1, 2, 3].filter((i) => first + i < jobs).map((i) => one(first + i)));
    }
    if (lost > 0) fail(`${lost} forwards never settled`);
    if (wrong > 0) fail(`${wrong} forwards gave other bits`);
    if (rejected > 0)
      fail(`${rejected} forwards rejected, where the calling thread could have finished them`);
    const p99 = quantile(recoveries, 0.99) - quantile(calm, 0.5);
    if (p99 >= 250) fail(`the slowest recoveries (p99) took ${p99.toFixed(0)} ms`);
    await engine.dispose();
    await alone.dispose();
    return {
      forwards: jobs,
      "workers ended": killed,
      "wrong, lost, rejected": `${wrong}, ${lost}, ${rejected}`,
      "recovery p50 / p99, ms beyond an undisturbed forward": `${(quantile(recoveries, 0.5) - quantile(calm, 0.5)).toFixed(1)} / ${p99.toFixed(1)}`,
    };
  },
};
