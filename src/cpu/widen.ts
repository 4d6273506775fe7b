/** The kernels of a model's other stages, where the first file has only those of an LRU. */
import type { WasmBackend } from "./backend.js";
import { wideKernels } from "./embedded.gen.js";
import { instantiate } from "./instantiate.js";
import { kernelBytes, notCompiled } from "./kernels.js";

const widened = new WeakMap<WasmBackend, Promise<void>>();

/** Gives a backend all kernels, once. A module of the user's own has them all. */
export async function widen(backend: WasmBackend): Promise<void> {
  const { simd } = backend.compiled;
  if (!wideKernels || simd === "custom") return;
  const widening = widened.get(backend) ?? addKernels(backend, simd);
  widened.set(backend, widening);
  await widening;
}

async function addKernels(backend: WasmBackend, simd: "relaxed" | "baseline"): Promise<void> {
  try {
    const module = await WebAssembly.compile(await kernelBytes(simd, backend.shared, wideKernels));
    Object.assign(backend.kernels, await instantiate(module, backend.arena.memory));
    backend.wide = module;
  } catch (error) {
    widened.delete(backend);
    throw notCompiled(error);
  }
}
