export { GpuCache } from "../gpuCache.js";
export { openWebgpu } from "../webgpu/backend.js";
