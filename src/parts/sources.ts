export { compileCustom } from "../cpu/customKernels.js";
export { loadBytes } from "../io/load.js";
export { toLruProgram, toTensors } from "../models/plain.js";
