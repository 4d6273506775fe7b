export { startWorkers } from "../cpu/pool.js";
export { forwardByTransfer } from "../cpu/transfer.js";
