export { halve } from "../halves.js";
export { readShared, writeShared } from "../sharing.js";
