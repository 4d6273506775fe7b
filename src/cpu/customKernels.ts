/** Kernels that a user gives, where compiling bytes is forbidden. */
import { createMemory } from "./instantiate.js";
import type { CompiledKernels, WasmSource } from "./kernels.js";

export async function compileCustom(source: WasmSource, shared: boolean): Promise<CompiledKernels> {
  const module = await toModule(source);
  // The import's type is not visible from outside: try it on the smallest memory of each kind.
  const onMemory = async (isShared: boolean): Promise<CompiledKernels> => {
    await WebAssembly.instantiate(module, { env: { memory: createMemory(isShared, 1) } });
    return { module, simd: "custom", shared: isShared };
  };
  return shared ? onMemory(true).catch(() => onMemory(false)) : onMemory(false);
}

async function toModule(source: WasmSource): Promise<WebAssembly.Module> {
  if (source instanceof WebAssembly.Module) return source;
  if (source instanceof URL) return WebAssembly.compile(await (await fetch(source)).arrayBuffer());
  if (typeof Response !== "undefined" && source instanceof Response) {
    return WebAssembly.compile(await source.arrayBuffer());
  }
  return WebAssembly.compile(source as BufferSource);
}
