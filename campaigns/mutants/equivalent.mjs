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
];

/** The reason; undefined for a mutant that is not known to change nothing. */
export function equivalent({ file, says, becomes }) {
  return list.find(
    (entry) =>
      entry.file === file && entry.says === says && (entry.becomes ?? becomes.trim()) === becomes.trim(),
  )?.reason;
}
