/** The same digits on each backend: what is run, how it is timed, and when it counts as wrong. */
import { availableParallelism } from "node:os";
import { createEngine } from "linrec";
import { CLASSES, classesOf, digits, largestDifference, network, PIXELS } from "./data.mjs";

/**
 * What to run. A software GPU and the float64 reference are thousands of times slower than a real GPU, so they read
 * fewer digits: about ten seconds' worth each.
 * @param {import("linrec").Engine} engine tells which backends there are
 */
export function planRuns({ backends }) {
  const cores = availableParallelism();
  const softwareGpu = backends.webgpu.reason.includes("(software");
  // The largest error that is allowed, as a part of the largest |log-probability|. The reference computes in float64
  // and rounds its result to float32, which alone is 6e-8. A GPU may round less carefully than a CPU.
  return [
    { name: "reference", backend: "reference", count: 40, batch: 5, allowed: 1e-7 },
    {
      name: "wasm on the calling thread",
      backend: "wasm",
      threads: 0,
      count: 1000,
      batch: 50,
      allowed: 1e-5,
    },
    {
      name: `wasm on all cores (${cores})`,
      backend: "wasm",
      threads: cores,
      count: 1000,
      batch: 50,
      allowed: 1e-5,
    },
    softwareGpu
      ? { name: "webgpu in software", backend: "webgpu", count: 15, batch: 5, allowed: 5e-5 }
      : { name: "webgpu", backend: "webgpu", count: 1000, batch: 50, allowed: 5e-5 },
  ];
}

/**
 * Reads a run's digits on an engine of its own. `y` [count, 10] are log-probabilities; `backend` says what ran;
 * `fallbacks` are the reasons if anything went elsewhere than was asked.
 */
export async function readAll({ backend, threads, count, batch }, onProgress) {
  const fallbacks = [];
  const engine = await createEngine({ backend, threads, onFallback: ({ reason }) => fallbacks.push(reason) });
  try {
    const model = await engine.model(network);
    await model.forward(digits.pixels.subarray(0, PIXELS)); // not timed: it starts the threads and compiles the shaders
    const y = new Float32Array(count * CLASSES);
    const start = performance.now();
    for (let from = 0; from < count; from += batch) {
      const to = Math.min(from + batch, count);
      const x = digits.pixels.subarray(from * PIXELS, to * PIXELS);
      await model.forward(x, { batch: to - from, out: y.subarray(from * CLASSES, to * CLASSES) });
      onProgress(to);
    }
    const seconds = (performance.now() - start) / 1000;
    return { y, seconds, backend: engine.backends[backend].reason, fallbacks };
  } finally {
    await engine.dispose();
  }
}

/** Compares log-probabilities [count, 10] with the right ones, and says in words what is wrong, if anything. */
export function judge(y, allowed) {
  const exact = digits.exact.subarray(0, y.length);
  const classes = classesOf(y);
  const exactClasses = classesOf(exact);
  const fromExact = largestDifference(y, exact);
  const error = fromExact / Math.max(...exact.map(Math.abs));
  const changed = classes.filter((answer, i) => answer !== exactClasses[i]).length;
  const problems = [];
  // Written so that NaN is wrong.
  if (!(error <= allowed))
    problems.push(`error ${error.toExponential(1)}, allowed ${allowed.toExponential(0)}`);
  // In float64 the two most probable classes of every digit are at least 0.069 apart, and the error allowed moves a
  // log-probability by 0.003 at most: no answer may change.
  if (changed > 0) problems.push(`answers that are not float64's: ${changed}`);
  return {
    accuracy: classes.filter((answer, i) => answer === digits.labels[i]).length / classes.length,
    fromExact,
    fromPytorch: largestDifference(y, digits.pytorch),
    error,
    problems,
  };
}
