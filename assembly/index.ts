// Every kernel. They are guests in the host's memory: pointers come in, nothing is allocated, output first.
export { add } from "./add";
export { addCarry } from "./addCarry";
export { batchNorm } from "./batchNorm";
export { carryScan } from "./carryScan";
export { copyRows } from "./copyRows";
export { dense } from "./dense";
export { embedding } from "./embedding";
export { gelu } from "./gelu";
export { glu } from "./glu";
export { layerNorm } from "./layerNorm";
export { logSoftmax } from "./logSoftmax";
export { output } from "./output";
export { poolCarry, poolLocal, poolResult, poolStep } from "./pool";
export { projectHidden } from "./projectHidden";
export { projectScan } from "./projectScan";
export { stepScan } from "./stepScan";
export { timedScan } from "./timedScan";
