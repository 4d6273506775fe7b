/** What bench/gpu takes from the library's sources, since the package does not export it: internals.mjs bundles this file. */
export { linearLimit } from "../../src/selfTest.js";
