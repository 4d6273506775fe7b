export { GpuCache } from "../gpuCache.js";
export { restsOf } from "../rest.js";
export { openWebgpu } from "../webgpu/backend.js";
