/** `npm run bench`: linrec in every mode beside its peers, in one run on one machine. See README.md beside this file. */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { arch, availableParallelism, cpus, platform, totalmem } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { calibrate } from "./calm.mjs";
import { contenders } from "./contenders.mjs";
import { measureExtras } from "./extras/index.mjs";
import { compareSamples, measureShape } from "./measure.mjs";
import { readOptions, usage } from "./options.mjs";
import { compilePeak } from "./peak.mjs";
import { toMarkdown } from "./report/markdown.mjs";
import { lengthPlot, sharePlot } from "./report/svg.mjs";
import { quickShape, shapes } from "./shapes.mjs";
import { measureSweep } from "./sweep.mjs";

const here = fileURLToPath(import.meta.url);
const options = readOptions();
const log = (line) => console.log(line);

if (options.help) log(usage);
else if (options.node && resolve(options.node) !== process.execPath) runUnder(resolve(options.node));
else await main();

/** All of it under another Node: the same command without --node. */
function runUnder(node) {
  const args = process.argv.slice(2);
  const at = args.findIndex((arg) => arg === "--node" || arg.startsWith("--node="));
  args.splice(at, args[at].includes("=") ? 1 : 2);
  process.exitCode = spawnSync(node, [here, ...args], { stdio: "inherit" }).status ?? 1;
}

async function main() {
  if (options.python) process.env.PYTHON = options.python; // for the contenders' processes
  const peakKernels = await compilePeak();
  options.calm = { best: await calibrate(peakKernels.baseline, options.calibrateMs) };
  const wanted = contenders.filter(
    ({ peer }) => peer === "linrec" || (options.peers ?? [peer]).includes(peer),
  );
  const results = { ...facts(), quick: options.quick, shapes: [], sweep: [], extras: {} };
  for (const shape of shapes.filter(
    ({ name }) => options.shapes && (options.only ?? [name]).includes(name),
  )) {
    const actual = options.quick ? quickShape(shape) : shape;
    log(
      `${shape.name}: batch ${actual.batch}, seqLen ${actual.seqLen}, dModel ${actual.dModel}, dState ${actual.dState}`,
    );
    const result = await measureShape(actual, wanted, options, peakKernels, log);
    compareSamples(result.rows);
    results.shapes.push(result);
    save(results); // a long run that is stopped has not run for nothing
  }
  if (options.extras) {
    log("Time against length");
    results.sweep = await measureSweep(wanted, options, peakKernels, log);
    for (const { rows } of results.sweep) compareSamples(rows);
    log("Beside the table");
    results.extras = await measureExtras(options, peakKernels, log);
  }
  const files = save(results);
  log(`\n${toMarkdown(results)}\nWritten: ${files.join(", ")}`);
}

function facts() {
  return {
    date: new Date().toISOString(),
    node: process.versions.node,
    v8: process.versions.v8,
    machine: {
      cpu: cpus()[0]?.model.trim() ?? "unknown CPU",
      cores: availableParallelism(),
      memory: Math.round(totalmem() / 2 ** 30),
      os: `${platform()} ${arch()}`,
    },
    options: { budget: options.budget, rounds: options.rounds },
  };
}

/** Trial runs and other versions of Node do not overwrite what is published: their names say what they are. */
function save(results) {
  const all = [...results.shapes, ...results.sweep].flatMap(({ rows }) => rows);
  results.versions = Object.assign({}, ...all.map(({ versions }) => versions));
  const folder = options.out ? resolve(options.out) : fileURLToPath(new URL("results", import.meta.url));
  mkdirSync(folder, { recursive: true });
  const name = options.quick ? "quick" : "latest";
  const files = {
    [`${name}.json`]: `${JSON.stringify(results, null, 1)}\n`,
    [`${name}.md`]: toMarkdown(results),
  };
  if (results.shapes.length) files[`${name}-share.svg`] = sharePlot(results.shapes);
  if (results.sweep.length) files[`${name}-length.svg`] = lengthPlot(results.sweep);
  return Object.entries(files).map(([file, content]) => {
    writeFileSync(resolve(folder, file), content);
    return file;
  });
}
