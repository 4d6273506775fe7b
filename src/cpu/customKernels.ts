/** Kernels that a user gives, where compiling bytes is forbidden. */
import { LinrecError } from "../errors.js";
import { bytesOfResponse, loadBytes } from "../io/load.js";
import { typeName } from "../tensor.js";
import { createMemory, type Kernels } from "./instantiate.js";
import type { CompiledKernels, WasmSource } from "./kernels.js";

/** All of them: layers and models run with no others. */
// biome-ignore format: a list
const names = Object.keys({
  add: 0, addCarry: 0, addRows: 0, batchNorm: 0, carryScan: 0, copyRows: 0, dense: 0, embedding: 0, gelu: 0, glu: 0, layerNorm: 0,
  logSoftmax: 0, output: 0, poolCarry: 0, poolLocal: 0, poolResult: 0, poolStep: 0, projectScan: 0, realScan: 0, stepScan: 0, tiles: 0, timedScan: 0,
} satisfies Record<keyof Kernels, 0>);

export async function compileCustom(source: WasmSource, shared: boolean): Promise<CompiledKernels> {
  const module = await toModule(source);
  // What lacks a kernel would be found out by the first layer, with no word on what is wrong.
  const found = WebAssembly.Module.exports(module);
  const missing = names.filter(
    (name) => !found.some((item) => item.kind === "function" && item.name === name),
  );
  if (missing.length > 0) {
    throw new LinrecError(
      "backend-unavailable",
      `The module given as \`wasm\` is not linrec's kernels: it lacks ${missing.length} of their ${names.length}, such as ${missing[0]}. Give it linrec/kernels.wasm, of this version of linrec.`,
    );
  }
  // The import's type is not visible from outside: try it on the smallest memory of each kind.
  const onMemory = async (isShared: boolean): Promise<CompiledKernels> => {
    await WebAssembly.instantiate(module, { env: { memory: createMemory(isShared, 1) } });
    return { module, simd: "custom", shared: isShared };
  };
  return shared ? onMemory(true).catch(() => onMemory(false)) : onMemory(false);
}

async function toModule(source: WasmSource): Promise<WebAssembly.Module> {
  // By their names, which are the same in every realm.
  const type = typeName(source);
  if (type === "WebAssembly.Module") return source as WebAssembly.Module;
  const load = () => (type === "Response" ? bytesOfResponse(source as Response) : loadBytes(source as URL));
  return WebAssembly.compile((await load()) as Uint8Array<ArrayBuffer>);
}
