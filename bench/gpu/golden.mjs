/** Every golden case of the suite on the GPU, within the suite's limits: `node bench/gpu/golden.mjs [--out FOLDER]`. */
import { mkdirSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { createEngine, writeSafetensors } from "../linrec.mjs";
import { loadInternals } from "./internals.mjs";
import { openGpu } from "./open.mjs";

/** Whole models, of the largest |y| (test/golden.test.ts, test/rates.test.ts). */
const MODEL_LIMIT = 5e-5;
/** Each is a round trip. */
const STEPS = 20;

const { values } = parseArgs({ options: { out: { type: "string" } } });
const internals = await loadInternals();
const { gpu, adapter, driver } = await openGpu();
const engine = await createEngine({ backend: "webgpu", gpu });
const rows = [];
for (const [names, run] of [
  [internals.goldenNames.filter((name) => name.startsWith("lru_")), layer],
  [internals.goldenNames.filter((name) => !name.startsWith("lru_")), model],
  [internals.lrnnxNames, network],
])
  for (const name of names) await run(name).catch((error) => rows.push({ name, failed: error.message }));
await engine.dispose();

const failed = rows.filter((row) => row.failed ?? !(row.error <= row.limit));
for (const { name, kind, error, limit, failed: reason } of failed)
  console.log(
    `FAILED ${name}: ${reason ?? `${kind} is off by ${error.toExponential(2)}, its limit is ${limit.toExponential(2)}`}`,
  );
const worst = rows.reduce((a, b) => (b.error / b.limit > a.error / a.limit ? b : a));
console.log(
  `golden cases on ${adapter} (${driver}): ${rows.length - failed.length} of ${rows.length} comparisons within their limits; ` +
    `the worst: ${worst.name}, ${worst.kind}, ${worst.error?.toExponential(2)} of ${worst.limit?.toExponential(2)}`,
);
if (values.out) {
  mkdirSync(values.out, { recursive: true });
  writeFileSync(
    resolve(values.out, "golden.json"),
    `${JSON.stringify({ adapter, driver, rows }, null, 1)}\n`,
  );
}
process.exitCode = failed.length > 0 ? 1 : 0;

function compare(name, kind, actual, expected, limit) {
  rows.push({ name, kind, error: internals.relativeError(actual, expected), limit });
}

/** The LRU alone: y, its final state, and the same tokens one by one. */
async function layer(name) {
  const golden = await internals.loadGolden(name);
  const { x, y: expected, batch, seqLen, h0, checkpoint, tensors } = golden;
  const lru = await engine.lru(writeSafetensors(checkpoint));
  const start = lru.allocateInferenceCache(batch);
  if (h0) start.set(h0.re, h0.im);
  const limit = internals.linearLimit(
    internals.toLruParams(checkpoint),
    x,
    batch,
    seqLen,
    internals.initialState(golden),
  );
  const { y, state } = await lru.forward(x, { batch, state: start });
  compare(name, "y", y, expected, limit);
  const planes = (key) => ["re", "im"].flatMap((part) => [...(tensors.get(`${key}_${part}`)?.data ?? [])]);
  const { re, im } = state.get();
  const stateLimit = Math.max(
    2 * internals.relativeError(planes("state_f32"), planes("state")),
    8 * 2 ** -24,
  );
  compare(name, "state", [...re, ...im], planes("state"), stateLimit);
  const steps = Math.min(seqLen, STEPS);
  const outputs = [];
  for (let t = 0; t < steps; t++) outputs.push(await lru.step(rowsOf(x, batch, lru.dModel, t), start));
  const whole = Math.max(...expected.map(Math.abs));
  const part = outputs.map((_, t) => rowsOf(expected, batch, lru.dModel, t));
  const largest = Math.max(...part.map((values) => Math.max(...values.map(Math.abs))));
  // The limit is of the largest |y|, which may come later.
  compare(
    name,
    "y of steps",
    outputs.flatMap((y) => [...y]),
    part.flatMap((y) => [...y]),
    (limit * whole) / largest + 2 ** -24,
  );
  lru.dispose();
}

/** Token t of every row of values [batch, seqLen, width]. */
function rowsOf(values, batch, width, t) {
  const row = values.length / batch;
  const token = values.slice(0, batch * width);
  for (let i = 0; i < batch; i++)
    token.set(values.subarray(i * row + t * width, i * row + (t + 1) * width), i * width);
  return token;
}

async function model(name) {
  const { checkpoint, spec, input, y: expected, batch, h0 } = await internals.loadGolden(name);
  const network = await engine.model(writeSafetensors(checkpoint), spec);
  const state = network.allocateInferenceCache(batch);
  if (h0) state.set([h0]);
  compare(name, "y", (await network.forward(input, { batch, state })).y, expected, MODEL_LIMIT);
  network.dispose();
}

/** lrnnx's networks whose rate changes. */
async function network(name) {
  const { checkpoint, spec, x, y: expected, batch, lengths } = await internals.loadLrnnx(name);
  const network = await engine.model(writeSafetensors(checkpoint), spec);
  compare(
    name,
    "y",
    (await network.forward(x, { batch, ...(lengths && { lengths }) })).y,
    expected,
    MODEL_LIMIT,
  );
  network.dispose();
}
