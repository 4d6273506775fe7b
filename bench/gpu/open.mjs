/** The GPU that is here: the package `webgpu` in Node, over a real driver or, where there is none, SwiftShader. */
import { existsSync } from "node:fs";
import { createEngine } from "../linrec.mjs";

/** Otherwise timestamps are rounded to 65.5 us, more than many a dispatch takes. */
const FLAGS = ["disable-dawn-features=timestamp_quantization"];

/** @returns {Promise<{ gpu: GPU, adapter: string, software: boolean, driver: string, limits: object, timestamps: boolean }>} */
export async function openGpu() {
  await useDevelopmentDriver();
  const { create } = await import("webgpu");
  const gpu = create(FLAGS);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter)
    throw new Error("WebGPU found no adapter: a Vulkan driver is missing, or VK_ICD_FILENAMES names none");
  const engine = await createEngine({ backend: "webgpu", gpu, threads: 0 });
  const { software } = engine.backends.webgpu;
  await engine.dispose();
  const { vendor, architecture, device, description } = adapter.info;
  const { maxStorageBufferBindingSize, maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } =
    adapter.limits;
  return {
    gpu,
    software,
    adapter: [vendor, architecture, device].filter(Boolean).join(" ") || "an unnamed GPU",
    driver: description,
    timestamps: adapter.features.has("timestamp-query"),
    limits: {
      maxStorageBufferBindingSize,
      maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup,
    },
  };
}

/** In the repository there may be no driver but the tests' own; an offline copy names its driver in the environment. */
async function useDevelopmentDriver() {
  const tool = new URL("../../tools/software-gpu.mjs", import.meta.url);
  if (existsSync(tool)) (await import(tool.href)).useGpu();
}
