export { widen } from "../cpu/widen.js";
