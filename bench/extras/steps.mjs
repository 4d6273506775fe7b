/** One token at a time: stepSync, beside what reading the weights costs, and forward of one token. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { createEngine } from "../linrec.mjs";
import { measurePeak, measureRead } from "../peak.mjs";
import { fillInput, flopsOf, paramsOf } from "../shapes.mjs";
import { summarize } from "../stats.mjs";
import { bestKernel } from "./timing.mjs";

const shapes = [
  { dModel: 256, dState: 256, batch: 1 },
  { dModel: 64, dState: 64, batch: 1 },
  { dModel: 256, dState: 256, batch: 64 },
];

/** Steps between two looks at the clock: it costs about as much as a tenth of the shortest step. */
const GROUP = 10;

export async function measure({ quick, peakKernels }) {
  const engine = await createEngine({ backend: "wasm" });
  const kernel = bestKernel(peakKernels);
  const peak = await measurePeak(kernel, 1, quick ? 20 : 300);
  const results = [];
  for (const sizes of shapes) {
    const { dModel, dState, batch } = sizes;
    const layer = await engine.lru(paramsOf(sizes));
    const cache = layer.allocateInferenceCache(batch);
    const x = fillInput(new Float32Array(batch * dModel));
    const out = new Float32Array(x.length);
    const groups = quick ? 50 : batch > 1 ? 500 : 5000;
    const step = () => layer.stepSync(x, cache, { out });
    for (let i = 0; i < groups; i++) step();
    const us = summarize(timeGroups(groups, step));
    const forwardUs = await forwardOfOne(layer, x, batch, out, quick ? 50 : 1000);
    const flops = flopsOf({ ...sizes, seqLen: 1 });
    const readUs = measureRead(kernel, 16 * dModel * dState);
    const share = flops / us.median / 1e3 / peak;
    const heap = batch === 1 ? heapGrowth(step, quick ? 1e4 : 1e5) : undefined;
    results.push({ ...sizes, us, forwardUs, readUs, share, heap });
    layer.dispose();
  }
  await engine.dispose();
  return { peak, results, lines: results.map(describe) };
}

function timeGroups(groups, step) {
  const times = [];
  for (let group = 0; group < groups; group++) {
    const start = performance.now();
    for (let i = 0; i < GROUP; i++) step();
    times.push((1000 * (performance.now() - start)) / GROUP);
  }
  return times;
}

async function forwardOfOne(layer, x, batch, out, runs) {
  const times = [];
  for (let i = 0; i < 2 * runs; i++) {
    const start = performance.now();
    await layer.forward(x, { batch, out });
    if (i >= runs) times.push(1000 * (performance.now() - start));
  }
  return summarize(times).median;
}

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

function describe({ dModel, dState, batch, us, forwardUs, readUs, share, heap }) {
  const grown = heap ? `; after ${heap.steps} steps the heap has ${heap.bytes} bytes more` : "";
  return (
    `H=${dModel} N=${dState} B=${batch}: stepSync p50 ${us.median.toFixed(2)} us (${(100 * share).toFixed(0)} % of the peak), ` +
    `reading its weights ${readUs.toFixed(2)} us, forward of one token ${forwardUs.toFixed(2)} us ` +
    `(${(forwardUs / us.median).toFixed(2)} times)${grown}`
  );
}
