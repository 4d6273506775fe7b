/** Whether `auto` takes the best number of threads, from tiny shapes to large ones. */
import { createEngine } from "../linrec.mjs";
import { fillInput, inputLength, paramsOf } from "../shapes.mjs";
import { inTurns, openCalm } from "./timing.mjs";

const lengths = [1, 64, 512, 4096, 32768];
const sizes = [16, 64, 256];
const batches = [1, 8];

export async function measure({ quick, peakKernels, best }) {
  const calm = await openCalm(peakKernels, best, 2);
  const engines = {};
  for (const threads of ["auto", 0, 1, 2]) {
    // Only the CPU: a GPU would be another question.
    engines[threads] = await createEngine({ backend: ["wasm"], threads });
  }
  const results = [];
  for (const seqLen of quick ? lengths.slice(0, 3) : lengths)
    for (const size of sizes)
      for (const batch of batches)
        results.push(await compare(engines, { batch, seqLen, dModel: size, dState: size }, quick, calm));
  for (const engine of Object.values(engines)) await engine.dispose();
  const worst = results.reduce((a, b) => (b.ratio > a.ratio ? b : a));
  const within = results.filter(({ ratio }) => ratio <= 1.1).length;
  const calmOnes = results.filter(({ calm }) => calm > 0).length;
  const chosenNear = results.filter(({ ms, chosen, best }) => ms[chosen] <= 1.1 * ms[best]).length;
  const lines = [
    `the threads that auto takes are within 10 % of the best of 0, 1 and 2 on ${chosenNear} of ${results.length} shapes; timed beside them, ` +
      `auto itself is on ${within}; the worst: ` +
      `${worst.ratio.toFixed(2)} times at B=${worst.batch} L=${worst.seqLen} H=N=${worst.dModel} ` +
      `(it took ${worst.chosen}, the best is ${worst.best}); calm runs on ${calmOnes} shapes`,
  ];
  return { results, lines };
}

async function compare(engines, shape, quick, calmness) {
  const ways = {};
  const layers = [];
  let chosen;
  for (const [threads, engine] of Object.entries(engines)) {
    const layer = await engine.lru(paramsOf(shape));
    const x = fillInput(engine.allocate(inputLength(shape)));
    const out = engine.allocate(x.length);
    layers.push({ layer, engine, arrays: [x, out] });
    ways[threads] = () => layer.forward(x, { batch: shape.batch, out });
    if (threads === "auto")
      chosen = layer.explain("forward", { batch: shape.batch, seqLen: shape.seqLen }).threads;
  }
  const { ms, calm } = await inTurns(ways, quick ? 1 : 5, quick ? 2 : 40, calmness);
  for (const { layer, engine, arrays } of layers) {
    layer.dispose();
    for (const array of arrays) engine.free(array);
  }
  const best = ["0", "1", "2"].reduce((a, b) => (ms[b] < ms[a] ? b : a));
  return { ...shape, ms, calm, chosen, best: Number(best), ratio: ms.auto / ms[best] };
}
