// One suite, two places: Node and a real browser. A test file that can only run in one is named *.node.test.ts or
// *.browser.test.ts. What `npm run test:slow` runs, in Node, is *.slow.test.ts.
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { playwright } from "@vitest/browser-playwright";
import { defineConfig, type TestProjectInlineConfiguration } from "vitest/config";
import { findBrowser } from "./tools/browser.mjs";
import { prepareSoftwareGpu } from "./tools/software-gpu.mjs";

// Unpacked here, once, before processes start that would all do it at the same time.
prepareSoftwareGpu();
const { browser, reason } = findBrowser();
/** As for Node: test/support/webgpu.ts says why. Pages under test (web.node.test.ts and its like) are in browsers without it. */
const dawn = ["--enable-dawn-features=disable_workgroup_init"];
const cores = availableParallelism();

const node: TestProjectInlineConfiguration = {
  extends: true,
  resolve: {
    alias: [
      { find: /^webgpu$/, replacement: fileURLToPath(new URL("test/support/webgpu.ts", import.meta.url)) },
    ],
  },
  test: {
    name: "node",
    include: ["test/**/*.test.ts"],
    exclude: ["test/**/*.browser.test.ts", "test/**/*.slow.test.ts"],
    pool: "forks", // a process per test file: a native crash takes down one file, not the run
    setupFiles: ["test/support/gpu.setup.ts"],
  },
};

const slow: TestProjectInlineConfiguration = {
  ...node,
  test: { ...node.test, name: "slow", include: ["test/**/*.slow.test.ts"], exclude: [] },
};

const chromium: TestProjectInlineConfiguration = browser
  ? {
      extends: true,
      // Cross-origin isolation, which is what makes SharedArrayBuffer available.
      server: {
        headers: {
          "Cross-Origin-Opener-Policy": "same-origin",
          "Cross-Origin-Embedder-Policy": "require-corp",
        },
      },
      optimizeDeps: { include: ["comlink", "fast-check"] }, // found late, they would reload the page in mid-test
      test: {
        name: "browser", // its one instance, below, is the project that vitest shows
        include: ["test/**/*.test.ts"],
        exclude: ["test/**/*.{node,slow}.test.ts"],
        browser: {
          enabled: true,
          headless: true,
          fileParallelism: cores > 2, // else Node's files keep both busy
          screenshotFailures: false,
          provider: playwright({ launchOptions: { ...browser, args: [...browser.args, ...dawn] } }),
          instances: [{ browser: "chromium", name: "chromium" }],
        },
      },
    }
  : {
      extends: true,
      test: { name: "chromium", include: ["test/support/no-browser.ts"], provide: { noBrowser: reason } },
    };

export default defineConfig({
  test: {
    testTimeout: 60_000,
    hookTimeout: 60_000,
    maxWorkers: cores, // by itself vitest would leave one idle
    projects: [node, chromium, slow],
  },
});
