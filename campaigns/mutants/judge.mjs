// A process that runs tests on changed sources, over and over, without a copy of the project: vite is handed the changed
// text. Asked by `mutants.mjs` through messages, and ended by it when a mutant loops for ever.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { createVitest } from "vitest/node";
import { project } from "../plant.mjs";
import { firstPlaces, withNotes } from "./sources.mjs";

/** Absolute path -> the text that stands for the file. */
const texts = new Map();
const embedded = join(project, "src/cpu/embedded.gen.ts");

/** What vite is to take for a file that is changed; a shader is imported as text. */
function textOf(id) {
  const [path, query] = id.split("?");
  const text = texts.get(path);
  return text !== undefined && query === "raw" ? `export default ${JSON.stringify(text)};` : text;
}

class AsAsked {
  shard = (files) => files;
  sort = (files) => files;
}

const vitest = await createVitest(
  "test",
  {
    ...{ config: false, root: project, watch: false, reporters: [{}], silent: true, bail: 0 },
    ...{ pool: "forks", fileParallelism: false, maxWorkers: 1, testTimeout: 60_000, hookTimeout: 60_000 },
    // In the order in which they are asked for; what fails among others is tried once more in a process of its own.
    ...{ isolate: false, sequence: { sequencer: AsAsked } },
    include: ["test/**/*.test.ts"],
    // These look at the built package, at pages or at texts; browsers are not used here.
    exclude: [
      "test/**/*.{browser,slow}.test.ts",
      "test/{bench-*,cli,crashed-browser,docs,links,lruun-export,package,pages,readme,web,write}.node.test.ts",
      "test/{dist,kernels}.test.ts",
    ],
    setupFiles: ["test/support/gpu.setup.ts", "campaigns/mutants/reached.mjs"],
  },
  { plugins: [{ name: "mutant", enforce: "pre", load: textOf }] },
);
await vitest.standalone();
const specifications = new Map(
  (await vitest.globTestSpecifications()).map((specification) => [specification.moduleId, specification]),
);
const workerFiles = await filesOfWorker();

process.on("message", async (request) => {
  if (request.tests) process.send(await judge(request));
  else
    process.send(
      request.survey ? await survey(request.survey) : { workerFiles, files: [...specifications.keys()] },
    );
});
// Whoever asked is gone. With the processes that vitest has started: one of them may be in an endless loop.
process.on("disconnect", () => process.kill(-process.pid, "SIGKILL"));
process.send({ ready: true });

/** Runs a file's tests once. Which places the file comes to outside its tests and in each test, and how long they take. */
async function survey(path) {
  if (texts.size === 0)
    for (const [file, first] of firstPlaces()) texts.set(join(project, file), withNotes(file, first));
  const [module] = (await run([[path, null]])).modules;
  return {
    path,
    ok: module.state() !== "failed",
    ms: module.diagnostic().duration,
    reached: module.meta().reached ?? [],
    tests: [...module.children.allTests()].map((test) => ({
      id: test.id,
      ms: test.diagnostic()?.duration ?? 0,
      name: test.fullName,
      reached: test.meta().reached ?? [],
    })),
  };
}

/** Whether any of the tests fails with the changed file, which, and how. */
async function judge({ file, text, tests }) {
  const path = join(project, file);
  restore();
  texts.set(path, text);
  vitest.invalidateFile(path);
  if (workerFiles.includes(file)) await embed();
  vitest.config.bail = 1;
  let by;
  // One process for all that are named alike (most are not named).
  for (const name of new Set(tests.map(([, , name]) => name))) {
    const group = tests.filter((test) => test[2] === name);
    by = await failure(group);
    if (by && by.moduleId !== group[0][0]) by = await confirmed(group, by);
    if (by) break;
  }
  return { killed: by !== undefined, test: by?.test, by: by?.says };
}

function restore() {
  for (const path of texts.keys()) vitest.invalidateFile(path);
  texts.clear();
}

/** Another file of the same process may be why a test fails. */
async function confirmed(tests, { moduleId }) {
  const suspects = tests.filter(([id]) => id === moduleId);
  for (const test of [...suspects, ...tests.filter((other) => !suspects.includes(other))]) {
    const by = await failure([test]);
    if (by) return by;
  }
}

async function failure(tests) {
  const { module, unhandledErrors } = await run(tests);
  if (!module && unhandledErrors.length === 0) return undefined;
  const test = module && [...module.children.allTests("failed")][0];
  const error = test?.result().errors?.[0] ?? module?.errors()[0] ?? unhandledErrors[0];
  const where = module
    ? `${module.moduleId.slice(project.length)}: ${test?.fullName ?? "no test"}`
    : "outside the tests";
  const id = test && [module.moduleId, test.id];
  return { moduleId: module?.moduleId, test: id, says: `${where}: ${error?.name}: ${error?.message}` };
}

/** Runs [file, test ids or null for all, part of their names or nothing] in one process. `module`: the file that fails. */
async function run(tests) {
  const wanted = tests.map(([moduleId, testIds]) => {
    const specification = specifications.get(moduleId);
    specification.testIds = testIds ?? undefined;
    return specification;
  });
  vitest.setGlobalTestNamePattern(tests[0][2] ?? "");
  vitest.state.filesMap.clear(); // else what earlier runs left is among the answers
  const { testModules, unhandledErrors } = await vitest.runTestSpecifications(wanted);
  return {
    module: testModules.find((module) => module.state() === "failed"),
    modules: testModules,
    unhandledErrors,
  };
}

/** The worker is inside the library as text: it too gets the change. */
async function embed() {
  const original = readFileSync(embedded, "utf8");
  const { outputFiles } = await bundle(true);
  const source = `export const workerSource: string = ${JSON.stringify(outputFiles[0].text)};`;
  texts.set(
    embedded,
    original.replace(/^export const workerSource.*$/m, () => source),
  );
  vitest.invalidateFile(embedded);
}

async function filesOfWorker() {
  const { metafile } = await bundle(false);
  return Object.keys(metafile.inputs).filter((file) => !file.startsWith("node_modules"));
}

function bundle(changed) {
  return build({
    ...{
      entryPoints: [join(project, "workers/worker.ts")],
      absWorkingDir: project,
      bundle: true,
      write: false,
    },
    ...{ format: "esm", platform: "neutral", mainFields: ["module", "main"], metafile: true },
    external: ["node:*"],
    plugins: [
      {
        name: "mutant",
        setup({ onLoad }) {
          onLoad({ filter: /\.ts$/ }, ({ path }) =>
            changed && texts.has(path) ? { contents: texts.get(path), loader: "ts" } : undefined,
          );
        },
      },
    ],
  });
}
