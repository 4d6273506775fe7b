// Runs in every test process of `judge.mjs` before its tests: notes which places each test comes to.
import { afterAll, afterEach, beforeEach } from "vitest";

globalThis.reached = new Uint8Array(1 << 17);
let fileMeta;

/** What has been reached since the last call. */
function take() {
  const places = [];
  for (const [place, is] of globalThis.reached.entries()) if (is) places.push(place);
  globalThis.reached.fill(0);
  return places;
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
