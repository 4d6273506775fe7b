/** Engines for every way in which the CPU can run: threads or none, memory shared or private. */
import type { TestContext } from "vitest";
import { kernelBytes } from "../../src/cpu/kernels.js";
import { type BackendName, createEngine, type Engine, type EngineOptions } from "../../src/index.js";

export type Build = "relaxed" | "baseline";

/** The builds of the kernels that this runtime compiles; Node 20 has no relaxed SIMD. */
export const builds: readonly Build[] = (["baseline", "relaxed"] as const).filter((build) =>
  WebAssembly.validate(kernelBytes(build, false)),
);

/** Kernels for private memory: the engine then does what it does on a page that is not cross-origin isolated. */
export async function createPrivateEngine(build: Build, options: EngineOptions = {}): Promise<Engine> {
  return createEngine({ backend: "wasm", wasm: kernelBytes(build, false), ...options });
}

/** Shows a test as skipped, with the reason, where a backend is missing: never as green. */
export function needBackend(context: TestContext, engine: Engine, backend: BackendName): void {
  const { available, reason } = engine.backends[backend];
  if (!available) context.skip(reason);
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
