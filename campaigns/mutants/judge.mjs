// A process that runs tests on changed sources, over and over, without a copy of the project: vite is handed the changed
// text. Asked by `mutants.mjs` through messages, and ended by it when a mutant loops for ever.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { createVitest } from "vitest/node";
import { project } from "../plant.mjs";
import { sourceFiles, withNotes } from "./sources.mjs";

/** Absolute path -> the text that stands for the file. */
const texts = new Map();
const embedded = join(project, "src/cpu/embedded.gen.ts");

/** What vite is to take for a file that is changed; a shader is imported as text. */
function textOf(id) {
  const [path, query] = id.split("?");
  const text = texts.get(path);
  return text !== undefined && query === "raw" ? `export default ${JSON.stringify(text)};` : text;
}

const vitest = await createVitest(
  "test",
  {
    ...{ config: false, root: project, watch: false, reporters: [{}], silent: true, bail: 0 },
    ...{ pool: "forks", fileParallelism: false, maxWorkers: 1, testTimeout: 60_000, hookTimeout: 60_000 },
    include: ["test/**/*.test.ts"],
    // These look at the built package, at pages or at texts; browsers are not used here.
    exclude: [
      "test/**/*.browser.test.ts",
      "test/campaigns.slow.test.ts",
      "test/{cli,docs,links,lruun-export,pages,readme,web,write}.node.test.ts",
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
  process.send(request.tests ? await judge(request) : await survey());
});
process.on("disconnect", () => process.exit());
process.send({ ready: true });

/** Runs everything once. Which functions each file comes to outside its tests and in each test, and how long they take. */
async function survey() {
  for (const file of sourceFiles) texts.set(join(project, file), withNotes(file));
  const { testModules } = await vitest.runTestSpecifications([...specifications.values()]);
  for (const path of texts.keys()) vitest.invalidateFile(path);
  texts.clear();
  return {
    workerFiles,
    files: testModules.map((module) => ({
      path: module.moduleId,
      ok: module.state() !== "failed",
      ms: module.diagnostic().duration,
      reached: module.meta().reached ?? [],
      tests: [...module.children.allTests()].map((test) => ({
        id: test.id,
        name: test.fullName,
        ms: test.diagnostic()?.duration ?? 0,
        reached: test.meta().reached ?? [],
      })),
    })),
  };
}

/** Whether any of the tests fails with the changed file. */
async function judge({ file, text, tests }) {
  const path = join(project, file);
  texts.set(path, text);
  vitest.invalidateFile(path);
  if (workerFiles.includes(file)) await embed();
  vitest.config.bail = 1;
  let by;
  for (const [moduleId, testIds, name = ""] of tests) {
    const specification = specifications.get(moduleId);
    specification.testIds = testIds ?? undefined;
    vitest.setGlobalTestNamePattern(name);
    const { testModules, unhandledErrors } = await vitest.runTestSpecifications([specification]);
    // What other files left when they were last run is still among them.
    const failed = testModules.find((module) => module.moduleId === moduleId && module.state() === "failed");
    if (!failed && unhandledErrors.length === 0) continue;
    const test = failed && [...failed.children.allTests("failed")][0];
    by = `${moduleId.slice(project.length)}: ${test?.fullName ?? unhandledErrors[0] ?? "no test"}`;
    break;
  }
  texts.clear();
  for (const changed of [path, embedded]) vitest.invalidateFile(changed);
  return { killed: by !== undefined, by };
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
