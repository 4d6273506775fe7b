export { Gpu } from "../engine/gpu.js";
export { restsOf } from "../engine/rest.js";
export { GpuCache } from "../layers/gpuCache.js";
