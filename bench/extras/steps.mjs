/** One token at a time: stepSync, beside what reading the weights costs, and forward of one token. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { createEngine } from "../linrec.mjs";
import { measurePeak, reader } from "../peak.mjs";
import { fillInput, flopsOf, paramsOf } from "../shapes.mjs";
import { inTurns, openCalm, sayCalm } from "./timing.mjs";

const shapes = [
  { dModel: 256, dState: 256, batch: 1 },
  { dModel: 64, dState: 64, batch: 1 },
  { dModel: 256, dState: 256, batch: 64 },
];

/** Steps between two looks at the clock: it costs about as much as a tenth of the shortest step. */
const GROUP = 10;

export async function measure({ quick, peakKernels, best }) {
  const engine = await createEngine({ backend: "wasm" });
  const peak = await measurePeak(peakKernels.relaxed, 1, quick ? 20 : 300);
  const calmness = await openCalm(peakKernels, best, 1);
  const results = [];
  for (const sizes of shapes) {
    const { dModel, dState, batch } = sizes;
    const layer = await engine.lru(paramsOf(sizes));
    const cache = layer.allocateInferenceCache(batch);
    const x = fillInput(new Float32Array(batch * dModel));
    const out = new Float32Array(x.length);
    const step = () => layer.stepSync(x, cache, { out });
    const ways = {
      step: inGroups(step),
      forward: inAwaitedGroups(() => layer.forward(x, { batch, out })),
      read: inGroups(await reader(peakKernels.baseline, 16 * dModel * dState)),
    };
    for (let i = 0; i < (quick ? 50 : 5000 / batch); i++) for (const way of Object.values(ways)) await way();
    const { ms, calm } = await inTurns(ways, quick ? 1 : 10, quick ? 5 : 100, calmness);
    const us = {
      step: (1000 * ms.step) / GROUP,
      forward: (1000 * ms.forward) / GROUP,
      read: (1000 * ms.read) / GROUP,
    };
    const share = flopsOf({ ...sizes, seqLen: 1 }) / us.step / 1e3 / peak;
    const heap = batch === 1 ? heapGrowth(step, quick ? 1e4 : 1e5) : undefined;
    results.push({ ...sizes, us, calm, share, heap });
    layer.dispose();
  }
  await engine.dispose();
  return { peak, results, lines: results.map(describe) };
}

const inGroups = (once) => () => {
  for (let i = 0; i < GROUP; i++) once();
};

const inAwaitedGroups = (once) => async () => {
  for (let i = 0; i < GROUP; i++) await once();
};

/** Bytes by which the heap has grown after many steps, garbage collected before and after: none is kept by a step. */
function heapGrowth(step, steps) {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc");
  const used = () => {
    collect();
    collect();
    return process.memoryUsage().heapUsed;
  };
  used();
  const before = used();
  for (let i = 0; i < steps; i++) step();
  return { steps, bytes: used() - before };
}

function describe({ dModel, dState, batch, us, calm, share, heap }) {
  const grown = heap ? `; after ${heap.steps} steps the heap has ${heap.bytes} bytes more` : "";
  return (
    `H=${dModel} N=${dState} B=${batch}: stepSync p50 ${us.step.toFixed(2)} us (${(100 * share).toFixed(0)} % of the peak; ` +
    `${(us.step / us.read).toFixed(2)} times the ${us.read.toFixed(2)} us of reading its weights), forward of one token ` +
    `${us.forward.toFixed(2)} us (${(us.forward / us.step).toFixed(2)} times); ${sayCalm(calm)}${grown}`
  );
}
