import * as linrec from "linrec";
import { createEngine, type Engine, initLru, type LinrecError, type Lru, type LruCache } from "linrec";
// @ts-expect-error: written in JavaScript
import { forward } from "./forward.mjs";

export async function typed(): Promise<Float32Array> {
  const engine: Engine = await createEngine({ backend: ["webgpu", "wasm"], simd: "baseline" });
  const lru = await engine.lru(initLru({ dModel: 2, dState: 3, seed: 1 }));
  const cache: LruCache = lru.allocateInferenceCache(4);
  const unknown: { batch: number | undefined; seed: number | undefined } = {
    batch: undefined,
    seed: undefined,
  };
  await lru.forward(new Float32Array(8), { batch: unknown.batch });
  initLru({ dModel: 2, dState: 3, seed: unknown.seed });
  // @ts-expect-error: a cache cannot be a number
  lru.stepSync(new Float32Array(8), 1);
  await engine.dispose();
  return lru.stepSync(new Float32Array(8), cache);
}

/** What is not written to `out` is in ordinary memory, as a Blob wants it. */
export async function kept(lru: Lru, x: Float32Array): Promise<Blob> {
  const { y, state } = await lru.forward(x);
  const yt = lru.stepSync(x, state);
  const many = await lru.stepMany(x, state);
  return new Blob([y, yt, many]);
}

export const code = (error: LinrecError): string => error.code;

console.log(await forward(linrec));
