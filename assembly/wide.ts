// What the other stages of models run: loaded with the first model.
export { batchNorm } from "./batchNorm";
export { embedding } from "./embedding";
export { gelu } from "./gelu";
export { glu } from "./glu";
export { layerNorm } from "./layerNorm";
export { logSoftmax } from "./logSoftmax";
export { poolCarry, poolLocal, poolResult, poolStep } from "./pool";
