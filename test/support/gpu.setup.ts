// Runs in every Node test process before its tests: `createEngine()` then finds WebGPU through the package `webgpu`.
import { useGpu } from "../../tools/software-gpu.mjs";

useGpu();
