// Which tests come to which places, and how long they take: asked of the judge once for each test file, until it or a source
// changes.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { project } from "../plant.mjs";
import { firstPlaces } from "./sources.mjs";

/** Tests that take longer than this in all are not run for one mutant: it then counts as alive. Most that die do so in the first few seconds. */
const MOST_MS = 60_000;
/** What the start of a test file counts as. */
const START_MS = 300;

export async function survey(judge) {
  const sources = createHash("sha256");
  for (const folder of ["src", "workers", "test/support"]) {
    for (const name of readdirSync(join(project, folder), { recursive: true }).sort())
      if (name.endsWith(".ts")) sources.update(name).update(readFileSync(join(project, folder, name)));
  }
  const folder = join(project, "node_modules/.cache/linrec/survey");
  mkdirSync(folder, { recursive: true });
  const { workerFiles, files } = await judge.ask({}, 60_000);
  const surveyed = [];
  for (const path of files) {
    const digest = sources.copy().update(readFileSync(path)).digest("hex").slice(0, 16);
    const cache = join(folder, `${basename(path)}-${digest}.json`);
    if (!existsSync(cache)) {
      console.log(`${basename(path)}: its tests are run once, to see which places each comes to`);
      const answer = await judge.ask({ survey: path }, 600_000);
      if (!answer) throw new Error(`the survey of ${path} did not end`);
      writeFileSync(cache, JSON.stringify(answer));
    }
    const file = JSON.parse(readFileSync(cache, "utf8"));
    for (const what of [file, ...file.tests]) what.reached = new Set(what.reached);
    surveyed.push(file);
  }
  return { workerFiles, files: surveyed, first: firstPlaces() };
}

/** The tests that come to a place: [file, test ids or null for all of them]. */
export function testsOf({ files, workerFiles, first }, { file, place }) {
  const number = first.get(file) + place;
  const reach = ({ reached }) => reached.has(number);
  const pick = (test) => (reach(test) ? () => true : reach);
  if (!workerFiles.includes(file)) return select(files, pick);
  // What runs in workers is out of sight: the tests that start workers, too.
  return select(files, (test) =>
    /\/(faults(\.node)?|exact|exact-model|timesteps|resets|engine)\.test/.test(test.path)
      ? () => true
      : pick(test),
  );
}

/** The tests of the GPU's kernels: files, the name of those in them that run there, the shortest first. No survey is needed. */
export const testsOfGpu = {
  ms: 60_000,
  tests: [
    ["test/stages.test.ts", null, "webgpu"],
    ["test/golden.test.ts", null, "webgpu"],
    ["test/timesteps-gpu.test.ts", null],
    ["test/resets.test.ts", null, "webgpu"],
    ["test/rates.test.ts", null, "webgpu"],
    ["test/bidirectional.test.ts", null, "webgpu|on a GPU"],
    ["test/webgpu.test.ts", null],
    ["test/webgpu-lifting.node.test.ts", null],
    ["test/webgpu-tiles.node.test.ts", null],
    ["test/webgpu-past-end.node.test.ts", null],
    ["test/gpu-cache.test.ts", null],
  ].map(([file, ...rest]) => [join(project, file), ...rest]),
};

/** The tests of the CPU's kernels. */
export const testsOfCpu = ({ files }) =>
  select(
    files,
    ({ path }) =>
      ({ name }) =>
        !/webgpu/i.test(path + name) &&
        /\/(stages|exact|exact-model|golden|timesteps|resets|reference|models)\.test/.test(path),
  );

/** Of the tests of the picker, the cheapest, and those that come to little else: [file, test ids or null for all of them], and how long they take. */
function select(files, picker) {
  const candidates = files
    .filter(({ ok }) => ok)
    .flatMap((file) => {
      const own = file.tests.reduce((sum, test) => sum + test.ms, 0);
      const start = Math.max(START_MS, file.ms - own);
      const weight = ({ ms, reached }) => (start + ms) * (file.reached.size + reached.size);
      return file.tests.filter(picker(file)).map((test) => ({ file, test, start, weight: weight(test) }));
    })
    .sort((a, b) => a.weight - b.weight);
  const chosen = new Map();
  let total = 0;
  for (const { file, test, start } of candidates) {
    const ms = test.ms + (chosen.has(file) ? 0 : start);
    if (total > 0 && total + ms > MOST_MS) continue;
    total += ms;
    chosen.set(file, [...(chosen.get(file) ?? []), test.id]);
  }
  const tests = [...chosen].map(([file, ids]) => [file.path, ids.length === file.tests.length ? null : ids]);
  return { ms: total, tests };
}
