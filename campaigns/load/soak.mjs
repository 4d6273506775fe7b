// Long use: memory must not grow.
import { floats, lruParams } from "../support.mjs";

/** Megabytes of this process after the garbage has been collected. */
function residentMb() {
  globalThis.gc?.();
  globalThis.gc?.();
  return process.memoryUsage.rss() / 2 ** 20;
}

/** The least-squares slope of the points. */
function slope(points) {
  const n = points.length;
  const [mx, my] = [0, 1].map((i) => points.reduce((sum, point) => sum + point[i], 0) / n);
  const top = points.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  return top / points.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
}

async function grow(rounds, perRound, work) {
  const points = [];
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < perRound; i++) await work(i);
    points.push([((round + 1) * perRound) / 10_000, residentMb()]);
  }
  const warm = points.slice(rounds / 2); // the first half warms up
  return { slope: slope(warm), last: warm.at(-1)[1] };
}

export default {
  promise: "Memory does not grow with use.",
  how: "100,000 forwards of changing sizes on two workers and 100,000 on the calling thread, then 1,000,000 steps; the slope of the resident set after warm-up.",
  plants: [
    {
      says: "a forward's buffers are not freed",
      file: "src/cpu/windows.ts",
      find: "else for (const address of this.#allocated) arena.free(address);",
      replace: "",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const [dModel, dState] = [16, 16];
    const figures = {};
    const check = (what, { slope, last }) => {
      figures[`${what}: MB of growth per 10,000 calls`] = `${slope.toFixed(3)} (at ${last.toFixed(0)} MB)`;
      // Short runs see the collector's own waves.
      if (slope > (isFull ? 1 : 100)) fail(`${what}: ${slope.toFixed(2)} MB per 10,000 calls`);
    };
    for (const threads of [0, 2]) {
      const engine = await linrec.createEngine({ backend: "wasm", threads });
      const lru = await engine.lru(lruParams(linrec, dModel, dState));
      const inputs = [60, 700, 1500].map((seqLen) => floats(2 * seqLen * dModel, seqLen));
      const forward = (i) => lru.forward(inputs[i % 3], { batch: 2 });
      check(`forwards, ${threads} workers`, await grow(20, isFull ? 5000 : 40, forward));
      if (threads === 0) {
        const cache = lru.allocateInferenceCache(4);
        const xt = floats(4 * dModel, 1);
        const out = new Float32Array(4 * dModel);
        check("steps", await grow(20, isFull ? 50_000 : 2000, () => lru.stepSync(xt, cache, { out })));
      }
      await engine.dispose();
    }
    return figures;
  },
};
