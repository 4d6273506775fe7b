// `npm run mutants -- kernels` and `-- src`: changes one thing in one place of the sources, and expects the tests to notice;
// again for every such change. A mutant that lives shows a line that no test looks at.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { Judge } from "./mutants/child.mjs";
import { compile, embed } from "./mutants/compile.mjs";
import { equivalent } from "./mutants/equivalent.mjs";
import * as kernels from "./mutants/kernels.mjs";
import * as sources from "./mutants/sources.mjs";
import { survey, testsOf, testsOfCpu, testsOfGpu } from "./mutants/survey.mjs";
import { toMarkdown } from "./report.mjs";

const usage = `Usage: npm run mutants -- kernels|src [FILE ...] [--every N] [--from K] [--list] [--write]
  FILE        only the mutants of these files
  --every N   each Nth mutant, the Kth first
  --list      only says what they are
  --write     puts the result into docs/guarantees.md`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    every: { type: "string", default: "1" },
    from: { type: "string", default: "0" },
    list: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});
const [kind, ...names] = positionals;
if (kind !== "kernels" && kind !== "src") {
  console.error(usage);
  process.exit(2);
}

const all = (kind === "src" ? sources.sourceFiles : kernels.kernelFiles)
  .filter((file) => names.length === 0 || names.some((name) => [file, basename(file)].includes(name)))
  .flatMap(kind === "src" ? sources.mutantsOf : kernels.mutantsOf);
const chosen = all.filter((_, i) => i % Number(options.every) === Number(options.from));
if (options.list) {
  for (const { file, line, says } of chosen) console.log(`${file}:${line}: ${says}`);
  console.log(`${chosen.length} of ${all.length} mutants`);
  process.exit(0);
}

const start = performance.now();
const judge = new Judge("judge.mjs");
const kernelJudge = new Judge("kernelJudge.mjs");
let surveyed;
const counts = { killed: 0, alive: 0, equivalent: 0, "not compiled": 0 };
const alive = [];
for (const [i, mutant] of chosen.entries()) {
  const { file, line, says } = mutant;
  const reason = equivalent(mutant);
  const { fate, by } = reason ? { fate: "equivalent", by: reason } : await fateOf(mutant);
  counts[fate]++;
  if (fate === "alive") alive.push(`${file}:${line}: ${says}`);
  const place = `${file}:${line}: ${says}${mutant.becomes.includes("\n") ? "" : ` | ${mutant.becomes.trim()}`}`;
  console.log(
    `${i + 1}/${chosen.length} ${fate}: ${place}${by ? ` (${by.split("\n")[0].slice(0, 160)})` : ""}`,
  );
}
judge.end();
kernelJudge.end();
const seconds = (performance.now() - start) / 1000;
console.log(`${JSON.stringify(counts)} in ${seconds.toFixed(0)} s`);
for (const text of alive) console.log(`alive: ${text}`);
if (options.write) await write();
process.exit(alive.length > 0 ? 1 : 0);

async function map() {
  surveyed ??= await survey(judge);
  return surveyed;
}

/** "killed", "alive" or "not compiled", and by what. */
async function fateOf(mutant) {
  const { file } = mutant;
  if (kind === "src") {
    const text = sources.mutate(mutant);
    return text === undefined
      ? { fate: "not compiled" }
      : tried({ file, text }, testsOf(await map(), mutant));
  }
  if (file.endsWith(".wgsl")) return tried({ file, text: mutant.text }, testsOfGpu(await map()));
  const wasm = await compile(file, mutant.text);
  if (!wasm) return { fate: "not compiled" };
  const answer = await kernelJudge.ask({ wasm }, 30_000);
  if (!answer) return { fate: "killed", by: "no end" };
  if (answer.killed) return { fate: "killed", by: answer.by };
  return tried({ file: "src/cpu/embedded.gen.ts", text: embed(wasm) }, testsOfCpu(await map()));
}

/** What the tests say of a changed file. */
async function tried(change, { tests, ms }) {
  if (tests.length === 0) return { fate: "alive", by: "no test comes here" };
  const answer = await judge.ask({ ...change, tests }, 30_000 + 10 * ms);
  if (!answer) return { fate: "killed", by: "no end" };
  return { fate: answer.killed ? "killed" : "alive", by: answer.by };
}

async function write() {
  const file = new URL("results.json", import.meta.url);
  const results = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : { campaigns: {} };
  results.mutants ??= {};
  results.mutants[kind] = {
    ...{ mutants: all.length, every: Number(options.every), tried: chosen.length, ...counts, seconds },
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus()[0]?.model.trim() ?? "unknown CPU"}, ${availableParallelism()} threads, Node ${process.version}`,
  };
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(new URL("../docs/guarantees.md", import.meta.url), await toMarkdown(results));
}
