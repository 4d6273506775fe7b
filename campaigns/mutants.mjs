// `npm run mutants -- kernels`, `-- shaders`, `-- src`: changes one thing in one place of the sources, and expects the tests to notice;
// again for every such change. A mutant that lives shows a line that no test looks at. What was killed stays so until its file
// changes: a run that was stopped goes on where it was, and a second run tries again what lived.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { Judge } from "./mutants/child.mjs";
import { compile, embed } from "./mutants/compile.mjs";
import { equivalent } from "./mutants/equivalent.mjs";
import * as kernels from "./mutants/kernels.mjs";
import * as sources from "./mutants/sources.mjs";
import { survey, testsOf, testsOfCpu, testsOfGpu } from "./mutants/survey.mjs";
import { project } from "./plant.mjs";
import { record } from "./results.mjs";

const usage = `Usage: npm run mutants -- kernels|shaders|src [FILE ...] [--every N] [--from K] [--list] [--write] [--anew]
  FILE        only the mutants of these files
  --every N   each Nth mutant, the Kth first
  --list      only says what they are
  --write     puts what was tried, and what came of it, into docs/guarantees.md; of all files
  --anew      forgets what earlier runs have found`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    every: { type: "string", default: "1" },
    from: { type: "string", default: "0" },
    list: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    anew: { type: "boolean", default: false },
  },
});
const [kind, ...names] = positionals;
const kinds = {
  kernels: { files: kernels.kernelFiles.filter((file) => file.endsWith(".ts")), of: kernels.mutantsOf },
  shaders: { files: kernels.kernelFiles.filter((file) => file.endsWith(".wgsl")), of: kernels.mutantsOf },
  src: { files: sources.sourceFiles, of: sources.mutantsOf },
};
if (!Object.hasOwn(kinds, kind ?? "") || (options.write && names.length > 0)) {
  console.error(usage);
  process.exit(2);
}

const isWanted = ({ file }) =>
  names.length === 0 || names.some((name) => [file, basename(file)].includes(name));
const all = kinds[kind].files.flatMap(kinds[kind].of);
const chosen = all.filter(isWanted).filter((_, i) => i % Number(options.every) === Number(options.from));
if (options.list) {
  const lines = chosen.map(({ file, line, says }) => `${file}:${line}: ${says}\n`);
  const text = `${lines.join("")}${chosen.length} of ${all.length} mutants\n`;
  await new Promise((done) => process.stdout.write(text, done));
  process.exit();
}

const start = performance.now();
const judge = new Judge("judge.mjs");
const kernelJudge = new Judge("kernelJudge.mjs");
let surveyed;
const knownFile = join(project, "node_modules/.cache/linrec", `mutants-${kind}.json`);
/** digest of the changed file -> fate */
const known = !options.anew && existsSync(knownFile) ? JSON.parse(readFileSync(knownFile, "utf8")) : {};
mkdirSync(dirname(knownFile), { recursive: true });
/** source -> the test that killed a mutant of it last: it is asked first about the next one */
const lastKiller = new Map();
const alive = [];
for (const [i, mutant] of chosen.entries()) {
  const { file, line, says, becomes } = mutant;
  const before = known[digest(mutant)];
  const reason = equivalent(mutant);
  let answer;
  if (reason) answer = { fate: "equivalent", by: reason };
  else if (before && before !== "alive") answer = { fate: before, by: "in an earlier run" };
  else answer = await fateOf(mutant);
  const { fate, by } = answer;
  known[digest(mutant)] = fate;
  writeFileSync(knownFile, JSON.stringify(known));
  if (fate === "alive") alive.push(`${file}:${line}: ${says}`);
  const place = `${file}:${line}: ${says}${becomes.includes("\n") ? "" : ` | ${becomes.trim()}`}`;
  console.log(
    `${i + 1}/${chosen.length} ${fate}: ${place}${by ? ` (${by.split("\n")[0].slice(0, 160)})` : ""}`,
  );
}
judge.end();
kernelJudge.end();
const seconds = (performance.now() - start) / 1000;
console.log(`${JSON.stringify(count(chosen))} in ${seconds.toFixed(0)} s`);
for (const text of alive) console.log(`alive: ${text}`);
if (options.write) {
  await record((results, taken) => {
    const [every, from] = [Number(options.every), Number(options.from)];
    results.mutants = {
      ...results.mutants,
      [kind]: { ...taken, all: all.length, every, from, ...count(chosen) },
    };
  });
}
process.exitCode = alive.length > 0 ? 1 : 0;

/** What the mutant leaves, and the file it is in. */
function digest({ file, line, start, end, says, becomes }) {
  const text = readFileSync(join(project, file), "utf8");
  return createHash("sha256")
    .update(JSON.stringify([file, text, line, start, end, says, becomes]))
    .digest("hex")
    .slice(0, 20);
}

/** How many of the mutants have met which fate. */
function count(mutants) {
  const counts = { killed: 0, alive: 0, equivalent: 0, "not compiled": 0 };
  for (const mutant of mutants) {
    const fate = known[digest(mutant)];
    if (fate) counts[fate]++;
  }
  return counts;
}

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
  if (kind === "shaders") return tried({ file, text: mutant.text }, first(lastKiller.get(file), testsOfGpu));
  const wasm = await compile(file, mutant.text);
  if (!wasm) return { fate: "not compiled" };
  const answer = await kernelJudge.ask({ wasm }, 30_000);
  if (!answer) return { fate: "killed", by: "no end" };
  if (answer.killed) return { fate: "killed", by: answer.by };
  return tried({ file: "src/cpu/embedded.gen.ts", text: embed(wasm) }, testsOfCpu(await map()));
}

/** Among tests, one that is asked before the others, in a process of its own. */
function first(test, { tests, ms }) {
  return { ms, tests: test ? [[test[0], [test[1]], "."], ...tests] : tests };
}

/** What the tests say of a changed file. */
async function tried(change, { tests, ms }) {
  if (tests.length === 0) return { fate: "alive", by: "no test comes here" };
  const answer = await judge.ask({ ...change, tests }, 30_000 + 10 * ms);
  if (!answer) return { fate: "killed", by: "no end" };
  if (answer.test) lastKiller.set(change.file, answer.test);
  return { fate: answer.killed ? "killed" : "alive", by: answer.by };
}
