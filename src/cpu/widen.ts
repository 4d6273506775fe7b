/** What models want of the CPU beside what a layer wants: their stages, and the kernels of these where the first file lacks them. */
import { awake } from "../runtime/awake.js";
import type { WasmBackend } from "./backend.js";
import { wideKernels } from "./embedded.gen.js";
import { instantiate } from "./instantiate.js";
import { kernelBytes, notCompiled } from "./kernels.js";
import { packStage } from "./packStage.js";
import { modelStages } from "./stages.js";

const widened = new WeakMap<WasmBackend, Promise<void>>();

/** Gives a backend all stages and kernels, once. */
export async function widen(backend: WasmBackend): Promise<void> {
  const widening = widened.get(backend) ?? awake(addTo(backend));
  widened.set(backend, widening);
  await widening;
}

async function addTo(backend: WasmBackend): Promise<void> {
  const { simd } = backend.compiled;
  try {
    let module: WebAssembly.Module | undefined;
    // A module of the user's own has all kernels.
    if (wideKernels && simd !== "custom") {
      module = await WebAssembly.compile(kernelBytes(simd, backend.shared, wideKernels));
      Object.assign(backend.kernels, await instantiate(module, backend.arena.memory));
    }
    backend.wide = { pack: packStage, stages: modelStages, module };
  } catch (error) {
    widened.delete(backend);
    throw notCompiled(error);
  }
}
