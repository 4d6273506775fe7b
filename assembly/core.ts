// What a bare layer runs: these are in the first file that a page loads.
export { add } from "./add";
export { addCarry } from "./addCarry";
export { addRows } from "./addRows";
export { carryScan } from "./carryScan";
export { copyRows } from "./copyRows";
export { dense } from "./dense";
export { output } from "./output";
export { projectScan } from "./projectScan";
export { realScan } from "./realScan";
export { stepScan } from "./stepScan";
export { tiles } from "./tiles";
export { timedScan } from "./timedScan";
