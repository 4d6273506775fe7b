/**
 * What bench/gpu takes from the library's sources and the suite, since the package does not export it: internals.mjs
 * bundles this file.
 */

export { toLruParams } from "../../src/models/lru.js";
export { plan } from "../../src/scheduler.js";
export { linearLimit } from "../../src/selfTest.js";
export { openWebgpu } from "../../src/webgpu/backend.js";
export { goldenNames, initialState, loadGolden, relativeError } from "../../test/support/golden.js";
export { loadLrnnx } from "../../test/support/lrnnx.js";

import cases from "../../test/fixtures/lrnnx/cases.json" with { type: "json" };

export const lrnnxNames = cases.map(({ name }) => name);
