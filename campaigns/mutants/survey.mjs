// Which tests come to which functions, and how long they take: asked of the judge once for a state of the sources.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { project } from "../plant.mjs";

/** Tests that take longer than this in all are not run for one mutant: it then counts as alive. */
const MOST_MS = 60_000;
/** What the start of a test file's process counts as. */
const START_MS = 1000;

export async function survey(judge) {
  const hash = createHash("sha256");
  for (const folder of ["src", "workers", "test"]) {
    for (const name of readdirSync(join(project, folder), { recursive: true }).sort())
      if (name.endsWith(".ts")) hash.update(name).update(readFileSync(join(project, folder, name)));
  }
  const folder = join(project, "node_modules/.cache/linrec");
  const file = join(folder, `survey-${hash.digest("hex").slice(0, 16)}.json`);
  if (!existsSync(file)) {
    console.log("all tests are run once, to see which functions each comes to");
    const answer = await judge.ask({}, 3_600_000);
    if (!answer) throw new Error("the survey of the tests did not end");
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, JSON.stringify(answer));
  }
  return JSON.parse(readFileSync(file, "utf8"));
}

/** The tests that come to a function, in the order of their cost: [file, test ids or null for all of them]. */
export function testsOf({ files, workerFiles }, { file, within }) {
  const name = `${file}:${within}`;
  const reach = ({ reached }) => reached.includes(name);
  const found = select(files, (path) => (reach(path) ? () => true : reach));
  // What runs in workers alone is out of sight: the tests that start workers.
  if (found.tests.length > 0 || !workerFiles.includes(file)) return found;
  return select(
    files,
    ({ path }) =>
      () =>
        /\/(faults|exact|exact-model|timesteps|resets|engine)\.test/.test(path),
  );
}

/** The tests of the GPU's kernels: files, the name of those in them that run there, the shortest first. No survey is needed. */
export const testsOfGpu = {
  ms: 240_000,
  tests: [
    ["test/stages.test.ts", null, "webgpu"],
    ["test/golden.test.ts", null, "webgpu"],
    ["test/timesteps.test.ts", null, "webgpu"],
    ["test/resets.test.ts", null, "webgpu"],
    ["test/webgpu.test.ts", null],
    ["test/webgpu-lifting.node.test.ts", null],
    ["test/webgpu-tiles.node.test.ts", null],
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

function select(files, picker) {
  const chosen = files
    .filter(({ ok }) => ok)
    .map((file) => {
      const tests = file.tests.filter(picker(file));
      const ms = START_MS + tests.reduce((sum, test) => sum + test.ms, 0);
      const isAll = tests.length === file.tests.length;
      return { ms, count: tests.length, test: [file.path, isAll ? null : tests.map(({ id }) => id)] };
    })
    .filter(({ count }) => count > 0)
    .sort((a, b) => a.ms - b.ms);
  let ms = 0;
  const affordable = chosen.filter((candidate, i) => {
    ms += candidate.ms;
    return i === 0 || ms <= MOST_MS;
  });
  return {
    ms: affordable.reduce((sum, candidate) => sum + candidate.ms, 0),
    tests: affordable.map(({ test }) => test),
  };
}
