/**
 * What the scheduler predicts beside what it takes, over a grid of shapes: the CPU on the calling thread, one and two
 * workers, and the GPU, whose rates are measured for this even where it is software. `node bench/gpu/grid.mjs [--only cpu|gpu]
 * [--rounds N] [--out FOLDER]`; prints a table, how many of the predictions are within 30 %, and their median ratio to what was
 * measured; FOLDER has them as grid.json and grid.md. A machine that others use too wants rounds: the least of each figure over as
 * many processes.
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
let rows = [];
if (Number(values.rounds) > 1) rows = inProcesses(Number(values.rounds));
else {
  if (values.only !== "gpu") await measureCpu();
  if (values.only !== "cpu") await measureGpu();
}
if (values.json) console.log(JSON.stringify(rows));
else {
  const markdown = report();
  console.log(markdown);
  if (values.out) {
    mkdirSync(values.out, { recursive: true });
    const facts = {
      date: new Date().toISOString(),
      node: process.versions.node,
      rounds: Number(values.rounds),
    };
    const sums = waysOf(rows).map(sumUp);
    writeFileSync(resolve(values.out, "grid.json"), `${JSON.stringify({ ...facts, sums, rows }, null, 1)}\n`);
    writeFileSync(resolve(values.out, "grid.md"), `${markdown}\n`);
  }
}

/** The least of what several processes predict and measure: what the machine does when nobody else is at work on it. */
function inProcesses(count) {
  const args = [
    fileURLToPath(import.meta.url),
    "--json",
    "--ms",
    values.ms,
    ...(values.only ? ["--only", values.only] : []),
  ];
  const rounds = Array.from({ length: count }, () => {
    const { stdout } = spawnSync(process.execPath, args, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
      maxBuffer: 2 ** 26,
    });
    return JSON.parse(stdout.trim().split("\n").at(-1));
  });
  return rounds[0].map((row, i) => {
    const least = (name) => rounds.map((round) => round[i]).reduce((a, b) => (b[name] < a[name] ? b : a));
    const { predicted, parts } = least("predicted");
    return { ...row, predicted, parts, measured: least("measured").measured };
  });
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
      const predict = (layer) =>
        layer
          .explain("forward", { batch: shape.batch, seqLen: shape.seqLen })
          .candidates.find((each) => each.available && each.threads === threads);
      await measure(engine, shape, `wasm, ${threads} workers`, predict);
    }
    await engine.dispose();
  }
}

async function measureGpu() {
  const { gpuPrice, openWebgpu } = await loadInternals();
  const { gpu, software, adapter } = await openGpu();
  const { backend } = await openWebgpu(gpu);
  const start = performance.now();
  const rates = await backend.measure();
  console.log(
    `measured in ${Math.round(performance.now() - start)} ms on ${adapter}: ${JSON.stringify(rates)}`,
  );
  backend.dispose();
  const engine = await createEngine({ backend: "webgpu", gpu });
  for (const shape of software ? gridOf([1, 64, 512, 2048], 6e7) : gridOf([1, 64, 512, 4096, 65536], 1e12)) {
    const { batch, seqLen } = shape;
    const predict = ({ program }) => {
      const parts = gpuPrice({ ...workOf(shape), ...backend.passes(program, batch, seqLen, 0) }, rates);
      return { parts, ms: Object.values(parts).reduce((sum, part) => sum + part) };
    };
    await measure(engine, shape, software ? "webgpu (software)" : "webgpu", predict);
  }
  await engine.dispose();
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

async function measure(engine, shape, way, predict) {
  const layer = await open(engine, shape);
  const x = fillInput(new Float32Array(shape.batch * shape.seqLen * shape.dModel));
  const out = new Float32Array(x.length);
  const run = () => layer.forward(x, { batch: shape.batch, out });
  for (const start = performance.now(); performance.now() - start < Number(values.ms) / 4; ) await run();
  const times = [];
  for (const start = performance.now(); times.length < 2 || performance.now() - start < Number(values.ms); ) {
    const before = performance.now();
    await run();
    times.push(performance.now() - before);
  }
  const { ms: predicted, parts } = predict(layer);
  layer.dispose();
  rows.push({
    way,
    shape,
    predicted,
    parts,
    measured: values.json ? Math.min(...times) : median(times),
    runs: times.length,
  });
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
