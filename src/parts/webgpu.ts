export { Gpu } from "../gpu.js";
export { GpuCache } from "../gpuCache.js";
export { restsOf } from "../rest.js";
