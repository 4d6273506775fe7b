// linrec beside onnxruntime-web in browsers' tabs, a fresh tab for every turn, and beside PyTorch's own layer, which runs natively.
// `npm run build && npm ci --prefix bench && node bench/browsers/run.mjs`
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { browsers } from "../../tools/drivers.mjs";
import { isolated, serve } from "../../tools/serve.mjs";
import { contenders as processes } from "../contenders.mjs";
import { compilePeak } from "../peak.mjs";
import { ContenderProcess } from "../process.mjs";
import { TOLERANCE } from "../reference.mjs";
import { shapes as all, flopsOf, quickShape, relativeError } from "../shapes.mjs";
import { summarize, timesOf } from "../stats.mjs";

const usage = `node bench/browsers/run.mjs [options]
  --browsers chromium,firefox,webkit  those that are installed; Firefox and WebKitGTK as Debian packages them
  --only S1,S3        these shapes only (S1 to S4)
  --rounds 3          rounds, in each of which everybody has a turn
  --ms 1500           of a turn, at least one run
  --quick             tiny shapes: does everything work? The figures mean nothing
  --python PATH       a Python with torch ($PYTHON, or python3); left out without
  --out FOLDER        where results go (bench/results)`;

const inTabs = [
  { label: "linrec, calling thread", contender: "linrec", threads: 0, measuresPeak: true },
  { label: "linrec, 2 threads", contender: "linrec", threads: 2 },
  { label: "onnxruntime-web, 1 thread", contender: "onnxruntime-web", threads: 1 },
  { label: "onnxruntime-web, 2 threads", contender: "onnxruntime-web", threads: 2 },
];

const { options, root } = readOptions();
const site = await serve(root, isolated);
mkdirSync(join(root, "bench/build"), { recursive: true });
/** For the jobs of pages: addresses of that length keep Firefox busy for minutes. */
const folder = mkdtempSync(join(root, "bench/build/jobs-"));
const opened = [];
let pages = 0;
try {
  await main();
} finally {
  for (const driven of opened) await driven.close();
  site.close();
  rmSync(folder, { recursive: true });
}
process.exit();

async function main() {
  const kernels = await compilePeak();
  for (const name of options.browsers) {
    const reason = browsers[name].missing();
    if (reason) console.log(`${name} is left out: ${reason}`);
    else opened.push(await browsers[name].start());
  }
  const rows = [...opened.flatMap(tabRows), ...(await torchRows())];
  const result = { when: new Date().toISOString(), cpu: cpus()[0].model, node: process.version, shapes: [] };
  for (const shape of options.shapes) {
    console.log(shape.name);
    for (const row of rows) await attempt(row, shape, () => row.choose?.(shape));
    for (let round = 0; round < options.rounds; round++)
      for (const row of rows) if (!row.failed) await attempt(row, shape, () => row.turn(shape, kernels));
    checkSame(rows);
    result.shapes.push({ ...shape, rows: rows.map((row) => finish(row, shape)) });
  }
  for (const row of rows) row.child?.end();
  const page = report(result, rows);
  console.log(page);
  mkdirSync(options.out, { recursive: true });
  const name = options.quick ? "quick-browsers" : "browsers";
  writeFileSync(join(options.out, `${name}.json`), `${JSON.stringify(result, null, 1)}\n`);
  writeFileSync(join(options.out, `${name}.md`), page);
}

/** What fails is left out of this shape, with the reason. */
async function attempt(row, shape, work) {
  if (row.shape !== shape)
    Object.assign(row, { shape, times: [], peaks: [], failed: undefined, sample: undefined });
  try {
    await work();
  } catch (error) {
    row.failed = error.message.split("\n")[0];
    console.log(`  ${row.label}: ${error.message}`);
  }
}

function tabRows(driven) {
  const ask = async (job) => {
    const path = join(folder, `${++pages}.json`);
    writeFileSync(path, JSON.stringify({ ...job, warmUpMs: options.ms / 3 }));
    const url = `${site.url}bench/browsers/page.html?job=/${relative(root, path)}`;
    const { result, error } = JSON.parse(await driven.show(url));
    if (error) throw new Error(error);
    return result;
  };
  return inTabs.map(({ label, contender, threads, measuresPeak }) => {
    const job = { contender, threads };
    const row = { label: `${driven.version}: ${label}`, where: driven.version, contender, threads };
    row.choose = async (shape) => {
      const formulations = (await ask({ ...job, do: "formulations", shape })).filter(
        ({ skipped }) => !skipped,
      );
      row.formulation = formulations[0];
      if (formulations.length === 1) return;
      const tried = [];
      for (const formulation of formulations) {
        try {
          tried.push({ ...(await ask({ ...job, do: "try", shape, formulation })), formulation });
        } catch (error) {
          console.log(`  ${row.label}: ${formulation.name}: ${error.message.split("\n")[0]}`);
        }
      }
      const [best] = tried.filter(({ error }) => error <= TOLERANCE).sort((a, b) => a.ms - b.ms);
      if (!best) throw new Error("no formulation is right");
      row.formulation = best.formulation;
    };
    row.turn = async (shape, { relaxed, baseline }) => {
      const peak = measuresPeak && { relaxed: [...relaxed], baseline: [...baseline] };
      const turn = await ask({
        ...job,
        do: "turn",
        shape,
        formulation: row.formulation,
        ms: options.ms,
        peak,
      });
      if (!(turn.error <= TOLERANCE)) throw new Error(`wrong: its error is ${turn.error}`);
      if (!turn.isolated) throw new Error("the tab is not cross-origin isolated");
      row.times.push(...turn.times);
      row.sample = turn.sample;
      row.about = turn.about;
      if (turn.peak) row.peaks.push(turn.peak);
    };
    return row;
  });
}

/** lrnnx's layer, by the peer of bench/run.mjs. */
async function torchRows() {
  const rows = [];
  for (const contender of processes.filter(({ id }) => id.startsWith("torch-lrnnx"))) {
    const child = new ContenderProcess();
    try {
      await child.ask("open", contender);
    } catch (error) {
      console.log(`${contender.label} is left out: ${error.message}`);
      child.end();
      continue;
    }
    const row = { label: contender.label, contender: contender.peer, threads: contender.threads, child };
    row.turn = async (shape, { baseline: probeKernel }) => {
      const [formulation] = await child.ask("formulations", shape);
      const { sample } = await child.ask("prepare", { shape, formulation, warmUpMs: options.ms / 3 });
      const runs = await child.ask("turn", { ms: options.ms, probeKernel, threads: row.threads });
      row.times.push(...timesOf(runs));
      row.sample = [...sample];
    };
    rows.push(row);
  }
  return rows;
}

function finish({ label, where, contender, threads, times, peaks, failed, formulation, about }, shape) {
  const known = { label, where, contender, threads, about, formulation: formulation?.name };
  if (failed || times.length === 0) return { ...known, failed: failed ?? "no run" };
  const summary = summarize(times);
  const rate = peaks.length && summarize(peaks.map(({ rate }) => rate)).median;
  const share = rate && flopsOf(shape) / summary.median / 1e6 / rate;
  return { ...known, ...summary, ...(rate && { peak: rate, fused: peaks[0].fuses, share }) };
}

/** All who were timed have computed the same. */
function checkSame(rows) {
  const [first, ...others] = rows.filter(({ sample }) => sample);
  for (const { label, sample } of others) {
    const error = relativeError(sample, first.sample);
    if (!(error <= TOLERANCE)) throw new Error(`${label} and ${first.label} differ by ${error}`);
  }
}

function report({ when, cpu, node, shapes }, rows) {
  const lines = [`${cpu}, ${when.slice(0, 10)}, Node ${node} beside the browsers. Medians, ms (runs)`, ""];
  lines.push(`| | ${shapes.map(title).join(" | ")} |`, `| --- |${" ---: |".repeat(shapes.length)}`);
  for (const [i, { label }] of rows.entries())
    lines.push(`| ${label} | ${shapes.map(({ rows }) => cell(rows[i])).join(" | ")} |`);
  lines.push("", "linrec on the calling thread of a tab:", "");
  for (const row of rows.filter(({ contender, threads }) => contender === "linrec" && threads === 0)) {
    const figures = shapes.map(({ name, rows: here }) => {
      const own = here.find(({ label }) => label === row.label);
      const one = (wanted, where) =>
        here.find((r) => r.contender === wanted && r.where === where && r.threads === 1);
      const times = (other) => (other?.median ? `${(other.median / own.median).toFixed(1)} times` : "—");
      if (!own.median) return `${name} —`;
      const share = `${Math.round(100 * own.share)} % of ${own.peak.toFixed(0)} GFLOP/s`;
      const peers = [one("onnxruntime-web", row.where), one("torch-lrnnx", undefined)].map(times);
      return `${name} ${share}${own.fused ? "" : " (mul + add)"}; onnxruntime-web takes ${peers[0]} as long, PyTorch's layer ${peers[1]}`;
    });
    lines.push(`- ${row.where}: ${figures.join(". ")}.`);
  }
  return `${lines.join("\n")}\n`;
}

function title({ name, batch, seqLen, dModel, dState }) {
  return `${name}: B=${batch} L=${seqLen} H=${dModel} N=${dState}`;
}

function cell({ failed, median, runs }) {
  return failed ? "—" : `${Number(median.toPrecision(3))} (${runs})`;
}

function readOptions() {
  const text = { type: "string" };
  const flag = { type: "boolean", default: false };
  const { values } = parseArgs({
    options: {
      browsers: text,
      only: text,
      rounds: text,
      ms: text,
      python: text,
      out: text,
      quick: flag,
      help: flag,
    },
  });
  if (values.help) {
    console.log(usage);
    process.exit();
  }
  if (values.python) process.env.PYTHON = values.python;
  const { quick } = values;
  const wanted = values.only?.split(",") ?? ["S1", "S2", "S3", "S4"];
  const shapes = all
    .filter(({ name }) => wanted.includes(name))
    .map((shape) => (quick ? quickShape(shape) : shape));
  const root = fileURLToPath(new URL("../..", import.meta.url));
  return {
    root,
    options: {
      quick,
      shapes,
      browsers: values.browsers?.split(",") ?? Object.keys(browsers),
      rounds: Number(values.rounds ?? (quick ? 1 : 3)),
      ms: Number(values.ms ?? (quick ? 30 : 1500)),
      out: values.out ?? join(root, "bench/results"),
    },
  };
}
