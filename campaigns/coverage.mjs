// `npm run coverage [-- TEST ...]`: which lines and functions of src/ and workers/ the tests come to in Node. What runs in
// worker threads is out of vitest's sight: there Node itself writes down what has run, as each thread ends.
import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { SourceMap } from "node:module";
import { dirname, join, posix } from "node:path";
import { build } from "esbuild";
import { startVitest } from "vitest/node";
import { prepareSoftwareGpu } from "../tools/software-gpu.mjs";
import { project } from "./plant.mjs";
import { record } from "./results.mjs";

const filters = process.argv.slice(2);
const output = join(project, "coverage");
const ofWorkers = join(output, "workers");
rmSync(output, { recursive: true, force: true });
mkdirSync(ofWorkers, { recursive: true });
prepareSoftwareGpu();

const vitest = await startVitest(
  "test",
  filters,
  {
    ...{ config: false, root: project, watch: false, pool: "forks", silent: true },
    ...{ testTimeout: 120_000, hookTimeout: 120_000, include: ["test/**/*.test.ts"] },
    // These look at what was built, at pages or at texts.
    exclude: [
      "test/**/*.browser.test.ts",
      "test/campaigns.slow.test.ts",
      "test/{bench-*,cli,crashed-browser,docs,from-python,links,lruun-export,package,pages,readme,web}.node.test.ts",
      "test/dist.test.ts",
    ],
    setupFiles: ["test/support/gpu.setup.ts"],
    env: { NODE_V8_COVERAGE: ofWorkers },
    coverage: {
      ...{ enabled: true, provider: "v8", reporter: ["json"], reportOnFailure: true },
      include: ["src/**/*.ts", "workers/**/*.ts"],
      exclude: ["**/*.gen.ts", "**/*.d.ts"],
      reportsDirectory: join(output, "report"),
    },
  },
  { plugins: [await readableWorker()] },
);
await vitest.close();

/** file -> line -> times that what starts there has run; and likewise of functions. */
const files = new Map();
const maps = new Map();
const reported = JSON.parse(readFileSync(join(output, "report/coverage-final.json"), "utf8"));
for (const [path, { statementMap, fnMap, s, f }] of Object.entries(reported)) {
  const [lines, functions] = [new Map(), new Map()];
  for (const [id, { start }] of Object.entries(statementMap)) add(lines, start.line, s[id]);
  for (const [id, { loc }] of Object.entries(fnMap)) add(functions, loc.start.line, f[id]);
  files.set(path.slice(project.length), { lines, functions });
}
for (const name of readdirSync(ofWorkers)) {
  const { result } = JSON.parse(readFileSync(join(ofWorkers, name), "utf8"));
  for (const script of result) if (script.url.startsWith("data:text/javascript,")) addWorker(script);
}

const uncovered = [];
const table = {};
for (const [file, { lines, functions }] of [...files].sort()) {
  const missing = [...lines].filter(([, count]) => count === 0).map(([line]) => line);
  if (missing.length > 0) uncovered.push(`${file}: ${ranges(missing)}`);
  const folder = `${dirname(file)}/`;
  table[folder] ??= { lines: [0, 0], functions: [0, 0] };
  const counts = table[folder];
  for (const [name, all] of Object.entries({ lines, functions })) {
    counts[name][0] += [...all.values()].filter((count) => count > 0).length;
    counts[name][1] += all.size;
  }
}
console.log(uncovered.join("\n"));
console.table(table);
if (filters.length === 0) {
  await record((results, taken) => {
    results.coverage = { ...taken, folders: table };
  });
}
process.exit(); // whatever a test has left running

/** More of the same line: it has run if any has. */
function add(counts, line, count) {
  counts.set(line, (counts.get(line) ?? 0) + count);
}

/** The worker's text as it is in the sources, with a map to them. */
async function readableWorker() {
  const { outputFiles } = await build({
    entryPoints: [join(project, "workers/worker.ts")],
    ...{ absWorkingDir: project, bundle: true, write: false, outdir: project, sourcemap: "inline" },
    ...{ format: "esm", platform: "neutral", mainFields: ["module", "main"], external: ["node:*"] },
  });
  return {
    name: "readable-worker",
    enforce: "pre",
    transform(code, id) {
      if (!id.endsWith("/embedded.gen.ts")) return undefined;
      const source = `export const workerSource = ${JSON.stringify(outputFiles[0].text)};`;
      return code.replace(/^export const workerSource.*$/m, () => source);
    },
  };
}

/** Adds what a worker has run: esbuild leaves a statement on each line, as it was. */
function addWorker({ url, functions }) {
  const text = decodeURIComponent(url.slice(url.indexOf(",") + 1));
  const map = /\n\/\/# sourceMappingURL=data:application\/json;base64,(.*)\s*$/.exec(text)?.[1];
  if (!map) return; // a worker of a test's own
  if (!maps.has(map)) maps.set(map, new SourceMap(JSON.parse(Buffer.from(map, "base64").toString())));
  const source = maps.get(map);
  const counts = new Float64Array(text.length);
  // Inner ranges come after those that they are in.
  for (const { ranges } of functions) {
    for (const { startOffset, endOffset, count } of ranges) counts.fill(count, startOffset, endOffset);
  }
  let offset = 0;
  for (const [number, line] of text.split("\n").entries()) {
    const column = line.search(/\S/);
    if (column >= 0) found(number, column, offset + column, "lines");
    offset += line.length + 1;
  }
  for (const { ranges } of functions) {
    const [{ startOffset, count }] = ranges;
    const before = text.slice(0, startOffset).split("\n");
    if (count > 0) found(before.length - 1, before.at(-1).length, startOffset, "functions");
  }

  function found(line, column, at, kind) {
    const { originalSource, originalLine } = source.findEntry(line, column);
    const file = originalSource && posix.normalize(originalSource).replace(/^(\.\.\/)*/, "");
    const known = files.get(file)?.[kind];
    if (known?.has(originalLine + 1)) add(known, originalLine + 1, counts[at]);
  }
}

/** 1, 2, 3, 7 as "1-3, 7". */
function ranges(lines) {
  const found = [];
  for (const line of lines.sort((a, b) => a - b)) {
    if (found.at(-1)?.[1] === line - 1) found.at(-1)[1] = line;
    else found.push([line, line]);
  }
  return found.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(", ");
}
