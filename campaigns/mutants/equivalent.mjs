// Mutants that no test can kill, because the program they leave is the same: each with the reason.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { project } from "../plant.mjs";

const list = [
  {
    file: "src/analysis.ts",
    says: "<= for <",
    line: "for (let t = 0, at = 0; t < length; t++) {",
    reason: "writes past the end of a typed array, which ignores them",
  },
  {
    file: "assembly/timedScan.ts",
    says: "left out",
    line: "last = now;",
    reason: "a timestep that comes twice in a row is then searched for, and found",
  },
  {
    file: "src/cpu/runner.ts",
    says: "-- for ++",
    line: "readonly #id = programs++;",
    reason: "a program's number only has to be its own",
  },
];

/** The reason; undefined for a mutant that is not known to change nothing. */
export function equivalent({ file, says, line, start }) {
  const text = readFileSync(join(project, file), "utf8");
  const isFirst = !text.slice(text.lastIndexOf("\n", start) + 1, start).includes("<"); // where a line has two
  const source = text.split("\n")[line - 1].trim();
  return list.find((entry) => isFirst && entry.file === file && entry.says === says && entry.line === source)
    ?.reason;
}
