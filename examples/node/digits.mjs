/**
 * Reads real handwritten digits, pixel by pixel, with a trained network of Linear Recurrent Units, on every backend that
 * this machine has, and compares the answers. Then it reads one digit as a stream. `npm start` runs it.
 * The exit status is 1 if any backend is wrong.
 */
import { createEngine, readSafetensors } from "linrec";
import { useGpu } from "../../tools/software-gpu.mjs";
import { digits, network, sameBits } from "./data.mjs";
import { missingRow, resultRow, startProgress, tableOf } from "./report.mjs";
import { judge, planRuns, readAll } from "./runs.mjs";
import { streamDigit } from "./stream.mjs";

/** A 6 that looks like a 7, then like a 1, until its loop comes. */
const STREAMED = 3;

// Where a Linux machine has no graphics driver, a software one lets WebGPU run all the same. A real one is left alone.
const softwareGpu = useGpu();
const problems = [];
/** What ran otherwise than was asked, and why. */
const notes = [];
const engine = await createEngine();
try {
  introduce();
  await compareBackends();
  explainAuto();
  await stream();
} finally {
  await engine.dispose();
}
for (const problem of problems) console.error(`WRONG: ${problem}`);
process.exitCode = problems.length > 0 ? 1 : 0;

function introduce() {
  const tensors = [...readSafetensors(network).tensors.values()];
  const parameters = tensors.reduce((sum, { data }) => sum + data.length, 0).toLocaleString("en");
  console.log(`
Handwritten digits (MNIST), 28 x 28 pixels, one pixel a step: 784 tokens a digit. The network has
three LRU layers and ${parameters} parameters, and has seen none of these digits in training.
`);
}

async function compareBackends() {
  const rows = [];
  const answers = new Map();
  for (const run of planRuns(engine)) {
    const { available, reason } = engine.backends[run.backend];
    const { row, y } = available ? await tryRun(run) : { row: missingRow(run.name, whyMissing(run, reason)) };
    rows.push(row);
    if (run.backend === "wasm" && y) answers.set(run.name, y);
  }
  rows.push(pytorchRow());
  console.log(`\n${tableOf(rows)}`);
  console.log(`
Fewer digits are the first of the 1,000. A difference is the largest of all log-probabilities. The
error is the difference from float64 divided by the largest |log-probability|; the verdict says how
much of what is allowed that is, and wants every answer to be the one of float64.`);
  for (const note of notes) console.log(note);
  compareThreads(answers);
}

/** Runs one backend. What goes wrong with it must not keep the others from running. */
async function tryRun(run) {
  const progress = startProgress(run);
  try {
    const { y, seconds, backend, fallbacks } = await readAll(run, progress.update);
    progress.done(`${run.count.toLocaleString("en")} digits in ${seconds.toFixed(1)} s`);
    const found = judge(y, run.allowed);
    problems.push(...found.problems.map((problem) => `${run.name}: ${problem}`));
    notes.push(...fallbacks.map((reason) => `${run.name}: ${reason}`));
    const verdict = verdictOf(found, run.allowed);
    return { y, row: resultRow({ ...run, ...found, what: backend, seconds, verdict }) };
  } catch (error) {
    progress.done("failed");
    problems.push(`${run.name}: ${error.message}`);
    return { row: missingRow(run.name, `failed: ${error.message}`) };
  }
}

function verdictOf({ error, problems }, allowed) {
  return `${problems.length > 0 ? "WRONG" : "right"}\n${percent(error / allowed)}`;
}

function whyMissing({ backend }, reason) {
  const software =
    backend === "webgpu" && softwareGpu.reason
      ? `; a software GPU was not set up: ${softwareGpu.reason}`
      : "";
  return `not available: ${reason}${software}`;
}

/** PyTorch's answers were recorded with the digits. They show what float32 usually costs, so they are not judged. */
function pytorchRow() {
  const allowed = 1e-5;
  const found = judge(digits.pytorch, allowed);
  const verdict = `for scale\n${percent(found.error / allowed)}`;
  const name = "PyTorch in float32";
  return resultRow({ ...found, name, what: "recorded, not run here", count: digits.count, verdict });
}

function percent(part) {
  return `${Math.round(100 * part)} %`;
}

/** Threads share the work, not the rounding: any number of them gives the same bits. */
function compareThreads(answers) {
  if (answers.size < 2) return;
  const [alone, together] = answers.values();
  const same = sameBits(alone, together);
  if (!same) problems.push("wasm: threads and the calling thread differ");
  const numbers = alone.length.toLocaleString("en");
  const found = same ? `the same bits in all ${numbers}` : `DIFFERENT BITS among the ${numbers}`;
  console.log(`Threads and the calling thread give ${found} numbers.`);
}

function explainAuto() {
  const sizes = { batch: 50, seqLen: 784, dModel: 64, dState: 64, layers: 3 };
  const { reason, candidates } = engine.explain("forward", sizes);
  console.log(`\nFor batches of 50 digits "auto" chooses\n  ${reason}`);
  const webgpu = candidates.find(({ backend }) => backend === "webgpu");
  if (webgpu.reason !== reason) console.log(`and not webgpu: ${webgpu.reason}`);
}

async function stream() {
  console.log("\nOne digit as a stream, one `stepSync` a pixel:\n");
  const model = await engine.model(network);
  const cpu = engine.backends.wasm.available ? "wasm" : "reference";
  const { answer, same, microsecondsPerStep } = await streamDigit(model, STREAMED, cpu);
  if (!same) problems.push(`784 steps and one forward on ${cpu} differ`);
  console.log(`
The digit is a ${digits.labels[STREAMED]}, the network says ${answer}. A step took ${microsecondsPerStep.toFixed(0)} µs.
784 steps and one forward over the whole digit give ${same ? "the same bits" : "DIFFERENT BITS"}.
`);
}
