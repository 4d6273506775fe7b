export { openWebgpu } from "../webgpu/backend.js";
