export { runSelfTest } from "../engine/selfTest.js";
export { ReferenceBackend, runReference } from "../reference.js";
