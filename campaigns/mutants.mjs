// `npm run mutants`: changes one thing in one kernel, and expects the suite to notice; again for every such change.
// A mutant that lives shows a line that no test looks at. Takes hours for all; `-- FILE ...` takes only those kernels,
// `-- --every N` each Nth mutant.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { copyProject, project } from "./plant.mjs";

/** What a change does to a line: a pattern, and what each match becomes. None is meant to leave a program that works. */
const operators = [
  ["add for sub", /(?<=\b(?:f32x4|f64x2)\.)sub(?=\()/g, "add"],
  ["sub for add", /(?<=\b(?:f32x4|f64x2)\.)add(?=\()/g, "sub"],
  ["nmadd for madd", /(?<![a-z_])madd(?=\()/g, "nmadd"],
  ["madd for nmadd", /(?<![a-z_])nmadd(?=\()/g, "madd"],
  ["the real part for the imaginary", /\bcmaddIm(?=\()/g, "cmaddRe"],
  ["the imaginary part for the real", /\bcmaddRe(?=\()/g, "cmaddIm"],
  ["the first half of a group for the second", /(?<=v128\.load\([^()]*), 16(?=\))/g, ""],
  ["one row too few", /(?<=for \(; \w+ )> 0(?=;)/g, "> 1"],
  ["one chunk too short", /\bchunk - k0? - 1\b|\bchunk - k\b/g, (all) => `${all} - 1`],
  ["a chunk that ends one token later", /(?<=k(?: \+ 1)? == )chunk/g, "chunk + 1"],
  ["a mean over one too many", /\/ count\b/g, "/ (count + 1)"],
  ["a factor left out", /multiply\((?:step|leap), (\w+)\)/g, (_, factor) => factor],
  ["minus for plus", /(?<= )\+(?= (?:vec2f|multiply|skip|carry|total)\b)/g, "-"],
  ["the conjugate", /(?<=vec2f\()a\.x \* b\.x - a\.y \* b\.y/g, "a.x * b.x + a.y * b.y"],
];

/** Statements that can be left out: a call or an assignment on a line of its own. */
const statement =
  /^\s+(?!return|const|let|var|for|if|else|export|function|break|continue|workgroupBarrier)[\w.[\]]+(?:\(.*\)|\s[-+*]?=\s.*);$/;

const tests = {
  assembly: ["golden", "exact", "exact-model", "models", "reference", "kernels"],
  "src/webgpu/kernels": ["golden", "models", "webgpu"],
};

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { every: { type: "string", default: "1" }, list: { type: "boolean", default: false } },
});
const mutants = Object.keys(tests)
  .flatMap((folder) => readdirSync(join(project, folder)).map((name) => `${folder}/${name}`))
  .filter((file) => /\.(ts|wgsl)$/.test(file) && !file.endsWith("index.ts"))
  .filter((file) => positionals.length === 0 || positionals.includes(basename(file)))
  .flatMap(mutantsOf)
  .filter((_, i) => i % Number(options.every) === 0);

if (options.list) {
  for (const { file, line, says } of mutants) console.log(`${file}:${line + 1}: ${says}`);
  console.log(`${mutants.length} mutants`);
  process.exit(0);
}

const copy = copyProject();
const survivors = [];
for (const [i, mutant] of mutants.entries()) {
  const path = join(copy, mutant.file);
  const original = readFileSync(path, "utf8");
  const lines = original.split("\n");
  lines[mutant.line] = mutant.becomes;
  writeFileSync(path, lines.join("\n"));
  const how = fate(mutant.file);
  writeFileSync(path, original);
  if (how === "alive") survivors.push(mutant);
  const where = `${mutant.file}:${mutant.line + 1}`;
  console.log(
    `${i + 1}/${mutants.length} ${how}: ${where}: ${mutant.says}${how === "alive" ? `: ${mutant.becomes.trim()}` : ""}`,
  );
}
rmSync(copy, { recursive: true, force: true });
console.log(`${mutants.length - survivors.length} of ${mutants.length} mutants were killed`);
process.exitCode = survivors.length > 0 ? 1 : 0;

/** All mutants of a kernel's source, line by line. */
function mutantsOf(file) {
  const found = [];
  let comment = false;
  for (const [line, text] of readFileSync(join(project, file), "utf8").split("\n").entries()) {
    if (/^\s*\/\*/.test(text)) comment = true;
    const isCode =
      !comment && !/^\s*(\/\/|@|import|export (const|function)|function|fn|const \w+ =.*f32;)/.test(text);
    if (text.includes("*/")) comment = false;
    if (!isCode) continue;
    for (const [says, pattern, replacement] of operators) {
      for (const { index } of text.matchAll(pattern)) {
        const change = (all, ...rest) => {
          const at = rest.findLast((value) => typeof value === "number");
          if (at !== index) return all;
          return typeof replacement === "string" ? replacement : replacement(all, ...rest);
        };
        found.push({ file, line, says, becomes: text.replace(pattern, change) });
      }
    }
    if (statement.test(text)) found.push({ file, line, says: "left out", becomes: "" });
  }
  return found;
}

/** What the suite says of the copy as it is now. */
function fate(file) {
  const run = (...command) =>
    spawnSync(command[0], command.slice(1), { cwd: copy, encoding: "utf8", timeout: 300_000 });
  if (run(process.execPath, "esbuild.config.mjs", "--quiet").status !== 0) return "does not compile";
  const folder = Object.keys(tests).find((name) => file.startsWith(`${name}/`));
  const files = tests[folder]
    .map((name) => `test/${name}.test.ts`)
    .filter((path) => existsSync(join(copy, path)));
  const { status } = run("npx", "vitest", "run", "--project", "node", "--bail", "1", ...files);
  return status === 0 ? "alive" : "killed";
}
