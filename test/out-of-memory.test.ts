/** Want of memory, for which JavaScript has a RangeError, is `out-of-memory` whoever asks for it. */
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import {
  createEngine,
  type Engine,
  fromLruParams,
  initLru,
  type Lru,
  type LruCache,
  mergeConjugates,
  toFloat32,
  toLruParams,
  writeModel,
} from "../src/index.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";

/** A number of values that no other array here has. */
const MOST = 1000;
const [dModel, dState] = [40, 30];
const params = initLru({ dModel, dState, seed: 1 });
const tensors = fromLruParams(params);
const doubles = new Map(
  [...tensors].map(([name, { data, shape }]) => [
    name,
    { dtype: "F64" as const, shape, data: Float64Array.from(data as Float32Array) },
  ]),
);
const nested = { ...Object.fromEntries(doubles), D: [...params.D] };
const batch = 50;

let engine: Engine;
let lru: Lru;
let ofDoubles: Lru;
let cache: LruCache;
beforeAll(async () => {
  engine = await createEngine({ backend: "wasm", threads: 0 });
  lru = await engine.lru(params);
  await engine.lru(nested); // its reader is loaded
  ofDoubles = await engine.lru(doubles);
  cache = lru.allocateInferenceCache(batch);
});
afterAll(() => engine.dispose());

/** There is no memory for arrays of more than MOST values. */
function withoutMemory(): void {
  for (const name of ["Float32Array", "Float64Array", "Uint32Array"] as const) {
    const construct = (
      array: typeof Float32Array,
      args: [number | ArrayLike<number>],
      target: typeof Float32Array,
    ) => {
      const [given] = args;
      if ((typeof given === "number" ? given : given.length) > MOST)
        throw new RangeError("Array buffer allocation failed");
      return Reflect.construct(array, args, target === globalThis[name] ? array : target);
    };
    vi.stubGlobal(name, new Proxy(globalThis[name] as typeof Float32Array, { construct }));
  }
}

const x = new Float32Array(batch * dModel);
const bits = { dtype: "F16", shape: [2 * MOST], data: new Uint16Array(2 * MOST) } as const;
test.each<[string, () => unknown]>([
  ["initLru", () => initLru({ dModel, dState })],
  ["lru", () => engine.lru(params)],
  ["lru of nested arrays", () => engine.lru(nested)],
  ["toLruParams", () => toLruParams(tensors)],
  ["toLruParams of doubles", () => toLruParams(doubles)],
  ["mergeConjugates", () => mergeConjugates(params)],
  ["toFloat32 of F16", () => toFloat32(bits)],
  ["toFloat32 of BF16", () => toFloat32({ ...bits, dtype: "BF16" })],
  ["serializeState", () => lru.serializeState(cache)],
  ["get", () => cache.get()],
  ["stepSync", () => lru.stepSync(x, cache)],
  ["step", () => lru.step(x, cache)],
  ["stepMany", () => lru.stepMany(x, cache)],
  ["forward", () => lru.forward(x)],
  ["allocateInferenceCache", () => lru.allocateInferenceCache(50 * batch)],
  ["discretize", () => lru.discretize()],
  ["errorBound", () => lru.errorBound(x)],
  ["writeModel of doubles", () => writeModel(ofDoubles)],
])("%s", async (_, call) => {
  withoutMemory();
  const error = await errorOf(call).finally(() => vi.unstubAllGlobals());
  expectLinrecError(error, "out-of-memory", /Memory for .* could not be had/);
  expect((error as Error).cause).toBeInstanceOf(RangeError);
});
