export { halve } from "../halves.js";
