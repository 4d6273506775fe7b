// Mutants that no test can kill, because the program they leave is the same: each with the reason.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { project } from "../plant.mjs";

export const list = [
  {
    file: "src/layers/analysis.ts",
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
    file: "assembly/multiply.ts",
    says: "one row too few",
    line: "for (; tokens > 0; tokens -= 6) {",
    reason: "the rows left are a multiple of 6",
  },
  {
    file: "assembly/multiply.ts",
    says: "one row too few",
    line: "for (; tokens > 0; tokens -= 4) {",
    reason: "the rows left are a multiple of 4",
  },
  {
    file: "src/cpu/onWorkers.ts",
    says: "-- for ++",
    line: "readonly #id = programs++;",
    reason: "a program's number only has to be its own",
  },
  {
    file: "src/referenceCells.ts",
    says: "<= for <",
    line: "for (let j = 0; j < width; j++) dst[j] = (at(src, j) - mean) * inverse * at(scale, j) + at(bias, j);",
    reason: "writes past the end of a typed array, which ignores them",
  },
  {
    file: "src/cpu/tile.ts",
    says: "true for false",
    line: "reversed: false,",
    reason: "each tile says its own; the one row behind a pool is the same from either end",
  },
  {
    file: "src/cpu/tiles.ts",
    says: "no ?.",
    line: 'else if (stage.kind === "poolAll") this.#pool?.step(stage, step);',
    reason: "only models pool, and they bring what does",
  },
  {
    file: "src/cpu/transfer.ts",
    says: "true for finished > 0",
    line: "if (finished > 0) kernels.carryScan(carries, carry, loc, temporary, lambdaT, finished, 0, 1, groups, real);",
    reason: "of no chunk the kernel only zeroes loc, and what comes next writes that",
  },
  {
    file: "src/webgpu/plan.ts",
    says: "nothing for false",
    line: 'take(slot: number, per: "perToken" | "perRow", isFree: (area: number) => boolean = () => false): number {',
    reason: "undefined is as false",
  },
  {
    file: "src/webgpu/kernels/projectScan.wgsl",
    says: "no bit is masked",
    line: "slab[i] = timesteps(place.x, place.y & ~FRESH, i / SLAB * 4 % T, k0 + i % SLAB);",
    reason:
      "loads what comes after the last token of a chunk that starts anew, and nothing reads what comes of it",
  },
  {
    file: "src/webgpu/kernels/output.wgsl",
    says: "no bit is masked",
    line: "let token = place.x + min(row % T + s, (place.y & ~FRESH) - 1);",
    reason:
      "as in projectScan: what comes after a chunk's last token has sums of its own, which nobody stores",
  },
  {
    file: "src/webgpu/kernels/slotPool.wgsl",
    says: "left out",
    line: "if (sizes.mode == LAST) { at = 0; }",
    reason:
      "WebGPU reads some value of the array instead of one past its end, and of the last token none is used",
  },
  {
    file: "src/engine/selfTest.ts",
    says: '"" for "decoder"',
    line: 'dense("decoder", 2, 5, width, classes, 50);',
    reason: "a stage's name that nobody is shown",
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
