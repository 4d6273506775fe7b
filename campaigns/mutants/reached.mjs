// Runs in every test process of `judge.mjs` before its tests: notes which functions each test comes to.
import { afterAll, afterEach, beforeEach } from "vitest";

globalThis.reached = new Set();
let fileMeta;

/** What has been reached since the last call. */
function take() {
  const names = [...globalThis.reached];
  globalThis.reached.clear();
  return names;
}

/** What no test did by itself (imports, beforeAll) belongs to the file. */
function keep() {
  if (fileMeta) fileMeta.reached = [...new Set([...(fileMeta.reached ?? []), ...take()])];
}

beforeEach(({ task }) => {
  fileMeta = task.file.meta;
  keep();
});
afterEach(({ task }) => {
  task.meta.reached = take();
});
afterAll(keep);
