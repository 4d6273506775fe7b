export { OnWorkers } from "../cpu/onWorkers.js";
export { startWorkers } from "../cpu/pool.js";
