export { ReferenceBackend, runReference } from "../reference.js";
export { runSelfTest } from "../selfTest.js";
