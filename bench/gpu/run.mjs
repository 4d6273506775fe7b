/** `npm run bench:gpu`: the GPU engine kernel by kernel, beside what the GPU can do. See README.md one folder up. */
import { mkdirSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadInternals } from "./internals.mjs";
import { toMarkdown } from "./markdown.mjs";
import { measureShape, measureSteps, openEngines } from "./measure.mjs";
import { measurePeaks } from "./micro.mjs";
import { openGpu } from "./open.mjs";
import { plot } from "./plot.mjs";
import { budgetOf, lengths, shapes, stepShapes, within } from "./shapes.mjs";
import { measureTorch } from "./torch.mjs";

const usage = `node bench/gpu/run.mjs [options]
  --only wide,stack   these shapes only, and no lengths or steps
  --quick             few tokens: does everything work? The figures mean nothing
  --seconds 2         of measuring, for each figure
  --no-timestamps     wall time around submits even where the GPU has timestamp queries
  --no-torch          without PyTorch
  --out FOLDER        where results go (bench/results)`;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    quick: { type: "boolean", default: false },
    seconds: { type: "string", default: "2" },
    "no-timestamps": { type: "boolean", default: false },
    "no-torch": { type: "boolean", default: false },
    out: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

if (values.help) console.log(usage);
else process.exitCode = await main();

async function main() {
  const { quick, only } = values;
  const names = only?.split(",").map((name) => name.trim());
  const internals = await loadInternals();
  const { gpu, ...facts } = await openGpu();
  const { software } = facts;
  const timestamps = facts.timestamps && !values["no-timestamps"];
  console.log(
    `${facts.adapter}, ${facts.driver}${software ? " (software: only whether it is right means anything)" : ""}`,
  );
  const peaks = await measurePeaks(gpu, { software, timestamps });
  console.log(
    `copy ${(peaks.copyBytesPerMs / 1e6).toPrecision(3)} GB/s, multiply-add ${(peaks.flopsPerMs / 1e6).toPrecision(4)} GFLOP/s`,
  );
  const results = {
    date: new Date().toISOString(),
    node: process.versions.node,
    quick,
    gpu: facts,
    peaks,
    ...{ shapes: [], lengths: [], steps: [], torch: { missing: "it was not asked for" } },
  };
  const engines = await openEngines({ gpu, timestamps });
  const options = { seconds: quick ? 0 : Number(values.seconds), budget: budgetOf({ software, quick }) };
  const measure = (list, into) =>
    inOrder(list, into, (shape) => measureShape(shape, engines, peaks, internals, options));
  await measure(
    shapes.filter(({ name }) => (names ?? [name]).includes(name)),
    results.shapes,
  );
  if (!names) {
    await measure(
      lengths.filter((shape) => within(shape, options.budget).seqLen === shape.seqLen),
      results.lengths,
    );
    const streams = stepShapes.map((shape) =>
      software || quick ? { ...shape, batch: shape.batch / 16, dModel: 64, dState: 64 } : shape,
    );
    await inOrder(streams, results.steps, (shape) => measureSteps(shape, engines, internals, options));
  }
  await engines.dispose();
  if (!values["no-torch"])
    results.torch = measureTorch(
      results.shapes.filter(({ shape, failed }) => !shape.layers && !failed).map(({ shape }) => shape),
    );
  const files = save(results);
  console.log(`\n${toMarkdown(results)}\nWritten: ${files.join(", ")}`);
  return [...results.shapes, ...results.lengths, ...results.steps].some(({ failed }) => failed) ? 1 : 0;
}

/** One after the other; one that fails does not end the run. */
async function inOrder(list, into, measure) {
  for (const shape of list) {
    try {
      const row = await measure(shape);
      into.push(row);
      console.log(
        `${shape.name}: ${row.gpuMs === undefined ? `p50 ${row.ms.median.toPrecision(3)} ms` : `GPU ${row.gpuMs.toPrecision(3)} ms, array to array ${row.host.median.toPrecision(3)} ms`}`,
      );
    } catch (error) {
      into.push({ name: shape.name, shape, failed: error.message });
      console.log(`${shape.name} failed: ${error.message}`);
    }
  }
}

/** Neither a trial run nor a software adapter overwrites what is published. */
function save(results) {
  const folder = values.out ? resolve(values.out) : fileURLToPath(new URL("../results", import.meta.url));
  mkdirSync(folder, { recursive: true });
  const name = results.quick ? "quick-gpu" : results.gpu.software ? "gpu-software" : "gpu";
  const files = {
    [`${name}.json`]: `${JSON.stringify(results, null, 1)}\n`,
    [`${name}.md`]: toMarkdown(results),
    [`${name}.svg`]: plot(results),
  };
  return Object.entries(files).map(([file, content]) => {
    writeFileSync(resolve(folder, file), content);
    return file;
  });
}
