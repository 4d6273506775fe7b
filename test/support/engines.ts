/** Engines for every way in which the CPU can run: threads or none, memory shared or private. */
import { kernelBytes } from "../../src/cpu/kernels.js";
import { createEngine, type Engine, type EngineOptions } from "../../src/index.js";

export type Build = "relaxed" | "baseline";

/** The builds of the kernels that this runtime compiles; Node 20 has no relaxed SIMD. */
export const builds: readonly Build[] = await Promise.all(
  (["baseline", "relaxed"] as const).map(async (build) =>
    WebAssembly.validate(await kernelBytes(build, false)) ? [build] : [],
  ),
).then((lists) => lists.flat());

/** Kernels for private memory: the engine then does what it does on a page that is not cross-origin isolated. */
export async function createPrivateEngine(build: Build, options: EngineOptions = {}): Promise<Engine> {
  return createEngine({ backend: "wasm", wasm: await kernelBytes(build, false), ...options });
}

export interface NamedEngine {
  readonly name: string;
  readonly engine: Engine;
}

/** Shared memory on each number of threads, then private memory on each. */
export function createEngines(
  build: Build,
  shared: readonly number[],
  transfer: readonly number[],
): Promise<NamedEngine[]> {
  const simd = build;
  return Promise.all([
    ...shared.map(async (threads) => ({
      name: `${threads} threads, shared memory`,
      engine: await createEngine({ backend: "wasm", simd, threads }),
    })),
    ...transfer.map(async (threads) => ({
      name: `${threads} threads, private memories`,
      engine: await createPrivateEngine(build, { threads }),
    })),
  ]);
}
