/** Measures a shape: right first, then each kernel, then from array to array. */
import { totalmem } from "node:os";
import { createEngine } from "../linrec.mjs";
import { fillInput, inputLength, paramsOf, relativeError } from "../shapes.mjs";
import { summarize } from "../stats.mjs";
import { countsOf } from "./counts.mjs";
import { checkShape, flopsPerToken, open, within } from "./shapes.mjs";
import { timedGpu } from "./timed.mjs";

/** Whole models against float64 (README, "Numbers"); a layer's limit follows from its parameters. */
const MODEL_LIMIT = 5e-5;
/** x, y and the CPU's y together may take this part of the machine's memory. */
const MEMORY_SHARE = 0.4;

/** The engines of a run: one as users have it, one whose dispatches are timed, the float64 reference, and the CPU. */
export async function openEngines({ gpu, timestamps }) {
  const { gpu: timed, timer } = timedGpu(gpu, { timestamps });
  const backend = "webgpu";
  return {
    plain: await createEngine({ backend, gpu }),
    timed: await createEngine({ backend, gpu: timed }),
    reference: await createEngine({ backend: "reference" }),
    cpu: await createEngine({ backend: "wasm" }),
    timer,
    async dispose() {
      for (const engine of [this.plain, this.timed, this.reference, this.cpu]) await engine.dispose();
    },
  };
}

/** @returns what run.mjs puts into the table; throws if the GPU is wrong */
export async function measureShape(shape, engines, peaks, internals, options) {
  const check = await checked(shape, engines, internals.linearLimit);
  const actual = within(shape, options.budget);
  const tokens = actual.batch * actual.seqLen;
  const flops = tokens * flopsPerToken(actual);
  const x = fillInput(arrayOf(inputLength(actual)));
  const out = arrayOf(x.length);
  const kernels = await timeKernels(actual, engines, { x, out }, internals, options);
  const gpuMs = kernels.reduce((sum, { ms }) => sum + ms, 0);
  const host = await timeHost(actual, engines.plain, { x, out }, options);
  check.atSize = await againstCpu(actual, engines.cpu, { x, out }, check.limit);
  const bytes = bytesOf(kernels);
  const roofline = bytes && Math.max(flops / peaks.flopsPerMs, bytes / peaks.copyBytesPerMs);
  return {
    shape: actual,
    scaled: actual.seqLen !== shape.seqLen || actual.batch !== shape.batch,
    check,
    tokens,
    flops,
    bytes,
    gpuMs,
    host,
    shareOfFma: flops / gpuMs / peaks.flopsPerMs,
    shareOfCopy: bytes && bytes / gpuMs / peaks.copyBytesPerMs,
    roofline,
    shareOfRoofline: roofline && roofline / gpuMs,
    kernels,
  };
}

const bytesOf = (kernels) =>
  kernels.every(({ bytes }) => bytes !== undefined)
    ? kernels.reduce((sum, { bytes }) => sum + bytes, 0)
    : undefined;

function arrayOf(length) {
  if (12 * length > MEMORY_SHARE * totalmem()) throw new Error("x and y would not fit this machine's memory");
  return new Float32Array(length);
}

/** Against float64, within the limit that the library promises. */
async function checked(shape, { plain, reference }, linearLimit) {
  const small = checkShape(shape);
  const { batch, seqLen } = small;
  const x = fillInput(new Float32Array(inputLength(small)));
  const results = [];
  for (const engine of [plain, reference]) {
    const layer = await open(engine, small);
    results.push((await layer.forward(x, { batch })).y);
    layer.dispose();
  }
  const error = relativeError(...results);
  const limit = shape.layers ? MODEL_LIMIT : linearLimit(paramsOf(small), x, batch, seqLen);
  if (!(error <= limit))
    throw new Error(`wrong: its error is ${error.toExponential(1)}, the limit ${limit.toExponential(1)}`);
  return { error, limit, batch, seqLen };
}

/** What the GPU has left in `out`, against the CPU's run of all of it: each is within the limit, so both are within two. */
async function againstCpu(shape, cpu, { x, out }, limit) {
  const layer = await open(cpu, shape);
  const { y } = await layer.forward(x, { batch: shape.batch });
  layer.dispose();
  const error = relativeError(out, y);
  if (!(error <= 2 * limit))
    throw new Error(
      `wrong at full size: ${error.toExponential(1)} from what the CPU gives, limit ${(2 * limit).toExponential(1)}`,
    );
  return error;
}

/** Median ms of each kernel over some forwards, all its dispatches together. */
async function timeKernels(shape, { timed, timer }, { x, out }, { trafficByKernel }, options) {
  const layer = await open(timed, shape);
  const traffic = trafficByKernel(layer.program, shape.batch, shape.seqLen);
  const turns = [];
  const run = () => layer.forward(x, { batch: shape.batch, out });
  await run();
  await repeat(async () => turns.push(sumUp(await timer.during(run))), options);
  layer.dispose();
  const names = [...turns[0].keys()];
  // Kernels that the count does not know of were chosen for this shape: then it is not of these.
  const counted = names.every((name) => traffic.has(name));
  return names.map((name) => {
    const { dispatches } = turns[0].get(name);
    const { median: ms, min, q1, q3 } = summarize(turns.map((turn) => turn.get(name).ms));
    return { name, dispatches, ms, min, q1, q3, ...(counted ? countsOf(name, shape, traffic) : {}) };
  });
}

/** By kernel, in the order of their first dispatches. */
function sumUp(records) {
  const kernels = new Map();
  for (const { name, start, end } of records) {
    const { dispatches = 0, ms = 0 } = kernels.get(name) ?? {};
    kernels.set(name, { dispatches: dispatches + 1, ms: ms + end - start });
  }
  return kernels;
}

/** From an array to an array: uploads, kernels and the readback. */
async function timeHost(shape, engine, { x, out }, options) {
  const layer = await open(engine, shape);
  const times = await timesOf(() => layer.forward(x, { batch: shape.batch, out }), options);
  layer.dispose();
  return summarize(times);
}

/** Steps of some streams, each with its readback. */
export async function measureSteps(
  { batch, dModel, dState, name },
  { plain, reference },
  { linearLimit },
  options,
) {
  const layer = await plain.lru(paramsOf({ dModel, dState }));
  const oracle = await reference.lru(paramsOf({ dModel, dState }));
  const x = fillInput(new Float32Array(batch * dModel));
  const [cache, expected] = [layer, oracle].map((each) => each.allocateInferenceCache(batch));
  let error = 0;
  for (let t = 0; t < 3; t++) {
    const y = await layer.step(x, cache);
    error = Math.max(error, relativeError(y, await oracle.step(x, expected)));
  }
  const limit = linearLimit(paramsOf({ dModel, dState }), repeated(x, batch, dModel, 3), batch, 3);
  if (!(error <= limit))
    throw new Error(`wrong: its error is ${error.toExponential(1)}, the limit ${limit.toExponential(1)}`);
  const out = new Float32Array(x.length);
  const times = await timesOf(() => layer.step(x, cache, { out }), options);
  layer.dispose();
  oracle.dispose();
  const ms = summarize(times);
  return { name, batch, dModel, dState, error, limit, ms, perSecond: (1000 * batch) / ms.median };
}

/** x [batch, dModel] as [batch, times, dModel] */
function repeated(x, batch, dModel, times) {
  const all = new Float32Array(times * x.length);
  for (let row = 0; row < batch; row++)
    for (let t = 0; t < times; t++)
      all.set(x.subarray(row * dModel, (row + 1) * dModel), (row * times + t) * dModel);
  return all;
}

async function timesOf(run, options) {
  const times = [];
  await run();
  await repeat(async () => {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }, options);
  return times;
}

/** At least three times, until the budget is spent. */
async function repeat(run, { seconds, most = 200 }) {
  const start = performance.now();
  for (let runs = 0; runs < 3 || (runs < most && performance.now() - start < 1000 * seconds); runs++)
    await run();
}
