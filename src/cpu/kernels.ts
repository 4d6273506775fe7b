/** The builds of the kernels that the package carries, and which one runs here. */
import { LinrecError, messageOf, unended } from "../errors.js";
import { parts } from "../parts.js";
import { kernels } from "./embedded.gen.js";
import { specialize } from "./specialize.js";

/** `relaxed` fuses multiply-add: faster, the same bits on one machine. `baseline`: the same bits on every machine. */
export type Simd = "relaxed" | "baseline";

/** What a user may give in place of the inlined kernels, where compiling bytes is forbidden. */
export type WasmSource = WebAssembly.Module | ArrayBuffer | ArrayBufferView<ArrayBuffer> | URL | Response;

export interface CompiledKernels {
  readonly module: WebAssembly.Module;
  readonly simd: Simd | "custom";
  /** Whether the module takes shared memory: a module takes shared memory or private memory, never both. */
  readonly shared: boolean;
}

/** Compiles the build for this machine. Rejects with `backend-unavailable` where WASM, or the SIMD asked for, is missing. */
export async function compileKernels(
  simd: Simd | "auto",
  shared: boolean,
  custom: WasmSource | undefined,
): Promise<CompiledKernels> {
  if (typeof WebAssembly === "undefined") {
    throw new LinrecError(
      "backend-unavailable",
      'This runtime has no WebAssembly. Use backend "reference", or a newer runtime.',
    );
  }
  try {
    if (custom !== undefined) {
      return await (await parts.sources()).compileCustom(custom, shared);
    }
    for (const build of simd === "auto" ? (["relaxed", "baseline"] as const) : [simd]) {
      const bytes = kernelBytes(build, shared);
      try {
        return { module: await WebAssembly.compile(bytes), simd: build, shared };
      } catch (error) {
        // What is valid is refused for another reason: a Content-Security-Policy. (To ask before takes as long as compiling.)
        if (build === "baseline" || WebAssembly.validate(bytes)) throw error;
      }
    }
    throw new LinrecError(
      "backend-unavailable",
      'simd "relaxed" was asked for, but this runtime does not validate relaxed SIMD (Node 20 needs ' +
        '--experimental-wasm-relaxed-simd; Node 22 and current browsers have it). Use simd "auto" or "baseline".',
    );
  } catch (error) {
    throw notCompiled(error);
  }
}

export function notCompiled(error: unknown): LinrecError {
  if (error instanceof LinrecError) return error;
  return new LinrecError(
    "backend-unavailable",
    `The WASM kernels could not be compiled: ${unended(messageOf(error))}. If a Content-Security-Policy forbids it, allow ` +
      "'wasm-unsafe-eval' in script-src, or pass a compiled WebAssembly.Module as `wasm`.",
    { cause: error },
  );
}

/** What tools/embed.mjs has put on each byte. */
const SHIFT = 36;

/** A build of the embedded module, for private or for shared memory: they differ in the flags of the memory that they import. */
export function kernelBytes(
  simd: Simd,
  shared: boolean,
  { text, memoryFlags } = kernels,
): Uint8Array<ArrayBuffer> {
  const codes = new Uint8Array(text.length);
  let length = 0;
  let offset = -SHIFT;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code > 124) offset += 93 * (code - 124);
    else {
      codes[length++] = code + offset;
      offset = -SHIFT;
    }
  }
  const bytes = codes.slice(0, length);
  bytes[memoryFlags] = shared ? 3 : 1;
  specialize(bytes, simd === "relaxed");
  return bytes;
}
