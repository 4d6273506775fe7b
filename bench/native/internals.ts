/** What bench/native.mjs takes from the library's sources, since the package does not export it. */
export { packProgram } from "../../src/cpu/packed.js";
export { programOf } from "../../src/lruParams.js";
export { CHUNK } from "../../src/state.js";
