/**
 * What the scheduler predicts beside what it takes, over a grid of shapes: the CPU on the calling thread, one and two
 * workers, and the GPU, whose rates are measured for this even where it is software. `node bench/gpu/grid.mjs [--only cpu|gpu]
 * [--rounds N] [--out FOLDER]`; prints a table, how many of the predictions are within 30 %, and their median ratio to what was
 * measured; FOLDER has them as grid.json and grid.md. A machine that others use too wants rounds: the least of each figure over as
 * many processes on the CPU; on the GPU, where compiling takes the longest, one process's rounds, each of which measures the rates
 * and then, seconds later, the shapes: of a shape the round whose ratio is the median.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createEngine } from "../linrec.mjs";
import { ms, percent, table } from "../report/markdown.mjs";
import { fillInput, flopsOf } from "../shapes.mjs";
import { median } from "../stats.mjs";
import { loadInternals } from "./internals.mjs";
import { openGpu } from "./open.mjs";
import { flopsPerToken, open } from "./shapes.mjs";

const WITHIN = 0.3;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    out: { type: "string" },
    ms: { type: "string", default: "100" },
    rounds: { type: "string", default: "1" },
    json: { type: "boolean", default: false },
  },
});
const rows = [];
const rounds = Number(values.rounds);
if (values.only !== "gpu") await (rounds > 1 ? inProcesses() : measureCpu());
if (values.only !== "cpu") await measureGpu();
if (values.json) console.log(JSON.stringify(rows));
else {
  const markdown = report();
  console.log(markdown);
  if (values.out) {
    mkdirSync(values.out, { recursive: true });
    const facts = {
      date: new Date().toISOString(),
      node: process.versions.node,
      rounds,
    };
    const sums = waysOf(rows).map(sumUp);
    writeFileSync(resolve(values.out, "grid.json"), `${JSON.stringify({ ...facts, sums, rows }, null, 1)}\n`);
    writeFileSync(resolve(values.out, "grid.md"), `${markdown}\n`);
  }
}

/** The least of what several processes predict and measure: what the machine does when nobody else is at work on it. */
function inProcesses() {
  const args = [fileURLToPath(import.meta.url), "--json", "--ms", values.ms, "--only", "cpu"];
  const all = Array.from({ length: rounds }, () => {
    const { stdout } = spawnSync(process.execPath, args, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
      maxBuffer: 2 ** 26,
    });
    return JSON.parse(stdout.trim().split("\n").at(-1));
  });
  for (const [i, row] of all[0].entries()) {
    const own = all.map((round) => round[i]);
    const { predicted, parts } = least(own, "predicted");
    rows.push({ ...row, predicted, parts, measured: least(own, "measured").measured });
  }
}

function least(all, name) {
  return all.reduce((a, b) => (b[name] < a[name] ? b : a));
}

/** Layers of several sizes and a network, as many tokens of each as the budget has room for. */
function gridOf(lengths, flops) {
  const shapes = [];
  for (const [dModel, dState] of [
    [16, 16],
    [64, 64],
    [256, 256],
    [64, 256],
    [256, 64],
  ])
    for (const batch of [1, 8]) for (const seqLen of lengths) shapes.push({ batch, seqLen, dModel, dState });
  for (const seqLen of lengths.slice(1)) shapes.push({ batch: 1, seqLen, dModel: 64, dState: 64, layers: 4 });
  return shapes.filter((shape) => shape.batch * shape.seqLen * flopsPerToken(shape) <= flops);
}

async function measureCpu() {
  for (const threads of [0, 1, 2]) {
    const engine = await createEngine({ backend: "wasm", threads });
    for (const shape of gridOf([1, 64, 512, 4096, 32768], 1e9)) {
      const { layer, run } = await prepare(engine, shape);
      await timesOf(run, Number(values.ms) / 4);
      const times = await timesOf(run, Number(values.ms));
      const { candidates } = layer.explain("forward", { batch: shape.batch, seqLen: shape.seqLen });
      const { ms: predicted, parts } = candidates.find((each) => each.available && each.threads === threads);
      layer.dispose();
      const measured = values.json ? Math.min(...times) : median(times);
      const way = `wasm, ${threads} workers`;
      rows.push({ way, shape, predicted, parts, measured, runs: times.length });
    }
    await engine.dispose();
  }
}

async function measureGpu() {
  const { gpuPrice, openWebgpu } = await loadInternals();
  const { gpu, software, adapter } = await openGpu();
  // It computes on threads of this process, whose own clock stands still while strangers are at work on its cores.
  if (software) performance.now = cpuMs;
  // The package asks over and over whether it is through, and takes half of a core's time from those who compute.
  if (software) globalThis.setImmediate = (ask) => setTimeout(ask, 1);
  const { backend } = await openWebgpu(gpu);
  // As the engine's own, which cuts forwards by what it has measured, on a software adapter by nothing.
  const { backend: own } = software ? await openWebgpu(gpu) : { backend };
  const engine = await createEngine({ backend: "webgpu", gpu });
  const shapes = software ? gridOf([1, 64, 512, 2048], 6e7) : gridOf([1, 64, 512, 4096, 65536], 1e12);
  const all = [];
  for (const shape of shapes) {
    const { layer, run } = await prepare(engine, shape);
    await timesOf(run, Number(values.ms) / 4, 1);
    all.push({ shape, layer, run, seen: [] });
  }
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    const rates = await backend.measure();
    const taken = Math.round(performance.now() - start);
    console.log(`measured in ${taken} ms on ${adapter}: ${JSON.stringify(rates)}`);
    for (const { shape, layer, run, seen } of all) {
      const measured = median(await timesOf(run, Number(values.ms) / 2, 1));
      const passes = own.passes(layer.program, shape.batch, shape.seqLen, 0);
      const parts = gpuPrice({ ...workOf(shape), ...passes }, rates);
      const predicted = Object.values(parts).reduce((sum, part) => sum + part);
      seen.push({ parts, predicted, measured });
    }
  }
  for (const { shape, layer, seen } of all) {
    layer.dispose();
    seen.sort((a, b) => ratio(a) - ratio(b));
    const way = software ? "webgpu (software)" : "webgpu";
    rows.push({ way, shape, ...seen[rounds >> 1], runs: rounds });
  }
  await engine.dispose();
  for (const each of new Set([backend, own])) each.dispose();
}

function cpuMs() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** As the engine describes it to the scheduler. */
function workOf({ batch, seqLen, dModel, dState, layers = 0 }) {
  const flops = layers ? flopsPerToken({ layers }) : flopsOf({ batch: 1, seqLen: 1, dModel, dState });
  return {
    batch,
    seqLen,
    flopsPerToken: flops,
    bytesIn: 4 * dModel,
    bytesOut: 4 * dModel,
    states: (layers || 1) * dState,
  };
}

async function prepare(engine, shape) {
  const layer = await open(engine, shape);
  const x = fillInput(new Float32Array(shape.batch * shape.seqLen * shape.dModel));
  const out = new Float32Array(x.length);
  return { layer, run: () => layer.forward(x, { batch: shape.batch, out }) };
}

async function timesOf(run, ms, least = 2) {
  const times = [];
  for (const start = performance.now(); times.length < least || performance.now() - start < ms; ) {
    const before = performance.now();
    await run();
    times.push(performance.now() - before);
  }
  return times;
}

function ratio({ predicted, measured }) {
  return predicted / measured;
}

function isWithin(row) {
  return ratio(row) <= 1 + WITHIN && ratio(row) >= 1 / (1 + WITHIN);
}

function waysOf(rows) {
  return [...new Set(rows.map(({ way }) => way))];
}

function sumUp(way) {
  const own = rows.filter((row) => row.way === way);
  const worst = own.reduce((a, b) => (Math.abs(Math.log(ratio(b))) > Math.abs(Math.log(ratio(a))) ? b : a));
  return {
    way,
    shapes: own.length,
    within: own.filter(isWithin).length,
    medianRatio: median(own.map(ratio)),
    worst: { shape: worst.shape, ratio: ratio(worst) },
  };
}

function report() {
  const sums = waysOf(rows).map((way) => {
    const { shapes, within, medianRatio, worst } = sumUp(way);
    return `${way}: ${within} of ${shapes} (${percent(within / shapes)}) within ${percent(WITHIN)}; predictions are ${medianRatio.toFixed(2)} times what was measured in the median, ${worst.ratio.toFixed(2)} times at the worst, ${name(worst)}`;
  });
  const lines = rows.map((row) => [
    row.way,
    name(row),
    ms(row.predicted),
    ms(row.measured),
    `${ratio(row).toFixed(2)}${isWithin(row) ? "" : " !"}`,
    Object.entries(row.parts)
      .map(([part, time]) => `${part} ${ms(time)}`)
      .join(", "),
  ]);
  return [table(["", "shape", "predicted, ms", "measured, ms", "ratio", "parts"], lines), ...sums].join("\n");
}

function name({ shape: { batch, seqLen, dModel, dState, layers } }) {
  return `B=${batch} L=${seqLen} H=${dModel} N=${dState}${layers ? `, ${layers} layers` : ""}`;
}
