export { halve } from "../networks/halves.js";
export { readShared, writeShared } from "../networks/sharing.js";
