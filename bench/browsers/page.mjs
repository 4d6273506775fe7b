/** A turn of one contender in a tab of its own. The address names the job's file; what came of it becomes the page's text. */
import { contenderOf as linrec } from "../peers/linrecEngine.mjs";
import { contenderOf as onnxruntime } from "../peers/onnxruntime.mjs";
import { peakHere } from "../rate.mjs";
import { referenceOf } from "../reference.mjs";
import { checkShape, partOf, relativeError, sampleOf } from "../shapes.mjs";

const ORT = "/bench/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
/** A part on which formulations are compared has about so many flops. */
const PILOT_FLOPS = 3e8;

const open = {
  linrec: ({ threads }) => linrec({ threads, memory: "engine", simd: "auto" }),
  "onnxruntime-web": async ({ threads }) => onnxruntime(await import(ORT), { web: true, threads }),
};

const commands = {
  /** The ways to compute this shape that the contender has. */
  formulations: (contender, { shape }) => contender.formulations(shape),

  /** The error of a formulation on a few tokens, and its time on a part of the sequence. */
  async try(contender, { shape, formulation, warmUpMs }) {
    const error = await errorOf(contender, checkShape(shape), formulation);
    const job = await contender.prepare(partOf(shape, PILOT_FLOPS), formulation);
    const times = await timesDuring(job, warmUpMs);
    await job.dispose();
    return { error, ms: Math.min(...times) };
  },

  /** Times of runs at full size. */
  async turn(contender, { shape, formulation, warmUpMs, ms, peak }) {
    const error = await errorOf(contender, checkShape(shape), formulation);
    const job = await contender.prepare(shape, formulation);
    await timesDuring(job, warmUpMs);
    const times = await timesDuring(job, ms);
    const sample = [...sampleOf(await job.read())];
    await job.dispose();
    const [about] = contender.notes ?? [];
    return { error, times, sample, about, peak: peak && (await peakOf(peak)), isolated: crossOriginIsolated };
  },
};

async function errorOf(contender, shape, formulation) {
  const job = await contender.prepare(shape, formulation);
  await job.run();
  const error = relativeError(await job.read(), await referenceOf(shape));
  await job.dispose();
  return error;
}

async function timesDuring(job, ms) {
  const times = [];
  const end = performance.now() + ms;
  for (let before = performance.now(); before < end || times.length === 0; ) {
    await job.run();
    const now = performance.now();
    times.push(now - before);
    before = now;
  }
  return times;
}

/** GFLOP/s of multiply-adds, fused where this engine fuses them. */
async function peakOf({ relaxed, baseline }) {
  const [fused, plain] = [relaxed, baseline].map((bytes) => Uint8Array.from(bytes));
  const fuses = WebAssembly.validate(fused);
  return { fuses, rate: await peakHere(fuses ? fused : plain, 300) };
}

async function work() {
  const job = await (await fetch(new URLSearchParams(location.search).get("job"))).json();
  const contender = await open[job.contender](job);
  return { result: await commands[job.do](contender, job) };
}

const answer = await work().catch((error) => ({ error: `${error}\n${error?.stack}` }));
document.body.textContent = JSON.stringify(answer);
