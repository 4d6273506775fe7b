/** A turn of one contender in a tab of its own. The job is JSON in the address; what came of it becomes the page's text. */
import { createEngine } from "../linrec.mjs";
import { contenderOf } from "../peers/onnxruntime.mjs";
import { peakHere } from "../rate.mjs";
import { checkShape, fillInput, inputLength, paramsOf, partOf, relativeError, sampleOf } from "../shapes.mjs";

const ORT = "/bench/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
/** A part on which formulations are compared has about so many flops. */
const PILOT_FLOPS = 3e8;

const open = {
  async linrec({ threads }) {
    const engine = await createEngine({ backend: "wasm", threads });
    return {
      about: engine.backends.wasm.reason,
      formulations: () => [{ name: "linrec" }],
      async prepare(shape) {
        const layer = await engine.lru(paramsOf(shape));
        const x = fillInput(engine.allocate(inputLength(shape)));
        const out = engine.allocate(x.length);
        const run = () => layer.forward(x, { batch: shape.batch, out });
        return { run, read: () => out, dispose: () => [x, out].map((array) => engine.free(array)) };
      },
    };
  },
  async "onnxruntime-web"({ threads }) {
    return contenderOf(await import(ORT), { web: true, threads });
  },
};

const commands = {
  /** The ways to compute this shape that the contender has. */
  formulations: (contender, { shape }) => contender.formulations(shape),

  /** The error of a formulation on a few tokens, and its time on a part of the sequence. */
  async try(contender, { shape, formulation, warmUpMs }) {
    const error = await errorOf(contender, checkShape(shape), formulation);
    const job = await contender.prepare(partOf(shape, PILOT_FLOPS), formulation);
    const times = await timesOf(job, warmUpMs);
    await job.dispose();
    return { error, ms: Math.min(...times) };
  },

  /** Times of runs at full size. */
  async turn(contender, { shape, formulation, warmUpMs, ms, peak }) {
    const error = await errorOf(contender, checkShape(shape), formulation);
    const job = await contender.prepare(shape, formulation);
    await timesOf(job, warmUpMs);
    const times = await timesOf(job, ms);
    const sample = [...sampleOf(await job.read())];
    await job.dispose();
    const { about } = contender;
    return { error, times, sample, about, peak: peak && (await peakOf(peak)), isolated: crossOriginIsolated };
  },
};

async function errorOf(contender, shape, formulation) {
  const oracle = await createEngine({ backend: "reference" });
  const layer = await oracle.lru(paramsOf(shape));
  const { y } = await layer.forward(fillInput(new Float32Array(inputLength(shape))), { batch: shape.batch });
  await oracle.dispose();
  const job = await contender.prepare(shape, formulation);
  await job.run();
  const error = relativeError(await job.read(), y);
  await job.dispose();
  return error;
}

async function timesOf(job, ms) {
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
