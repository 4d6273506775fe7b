/**
 * `rows` and `stepMany`: however streams are advanced, some of them, in any order, many steps at a time, each gives what it
 * gives alone, token by token: on the CPU bit for bit.
 */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Arena } from "../src/cpu/arena.js";
import { WasmRunner } from "../src/cpu/runner.js";
import {
  type BackendName,
  createEngine,
  type Engine,
  initLru,
  LinrecError,
  type LinrecErrorCode,
} from "../src/index.js";
import type { AnyCache } from "../src/layers/cache.js";
import { macrotask } from "../src/runtime/macrotask.js";
import { expectSameBits } from "./support/bits.js";
import { builds, createPrivateEngine } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats } from "./support/problems.js";
import {
  alone,
  type Call,
  callsOf,
  isOneRate,
  type Layer,
  loadLayer,
  names,
  SLOTS,
} from "./support/streams.js";

/** The same calls on one cache of all the streams. */
async function together(
  layer: Layer,
  calls: readonly Call[],
): Promise<{ ys: Float32Array[]; cache: AnyCache }> {
  const cache = layer.allocateInferenceCache(SLOTS);
  const ys: Float32Array[] = [];
  for (const [i, { x, steps, options }] of calls.entries()) {
    if (steps !== 1) ys.push(await layer.stepMany(x, cache, options));
    else ys.push(i === 0 ? layer.stepSync(x, cache, options) : await layer.step(x, cache, options));
  }
  return { ys, cache };
}

const isNone = (value: number) => Number(Number.isNaN(value));
const isSome = (value: number) => !Number.isNaN(value);

describe.each(builds)("%s SIMD", (build) => {
  const engines: Engine[] = [];
  beforeAll(async () => {
    for (const threads of [0, 2]) engines.push(await createEngine({ backend: "wasm", simd: build, threads }));
    engines.push(await createPrivateEngine(build, { threads: 2 }));
  });
  afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

  test.each(names)("%s: some streams, many steps = one by one, bit for bit", async (name) => {
    for (const engine of engines) {
      const layer = await loadLayer(engine, name);
      const calls = callsOf(layer, 3, isOneRate(name));
      const [expected, actual] = [alone(layer, calls), await together(layer, calls)];
      for (const [i, y] of actual.ys.entries())
        expectSameBits(y, expected.ys[i] as Float32Array, `y of call ${i}`);
      const layers = [actual.cache.get()].flat();
      for (const [row, cache] of expected.caches.entries()) {
        expect(actual.cache.tokens[row], `tokens of row ${row}`).toBe(cache.tokens[0]);
        for (const [i, { re, im }] of [cache.get()].flat().entries()) {
          const part = (values: Float32Array) => values.subarray(row * re.length, (row + 1) * re.length);
          expectSameBits(part(layers[i]?.re as Float32Array), re, `re of layer ${i}, row ${row}`);
          expectSameBits(part(layers[i]?.im as Float32Array), im, `im of layer ${i}, row ${row}`);
        }
      }
      layer.dispose();
    }
  });

  test.each(names)(
    "%s: a stream is read out, saved, and goes on in another's place, bit for bit",
    async (name) => {
      for (const engine of engines) {
        const layer = await loadLayer(engine, name);
        const [first, ...later] = callsOf(layer, 2, isOneRate(name)).filter(({ options }) => !options.rows);
        const cache = layer.allocateInferenceCache(SLOTS);
        await layer.stepMany(first?.x as Float32Array, cache, first?.options);
        const rows = Int32Array.of(2, 0);
        const saved = layer.serializeState(cache.read(rows));
        const moved = layer.allocateInferenceCache(SLOTS);
        const reversed = Int32Array.from({ length: SLOTS }, (_, row) => SLOTS - 1 - row);
        moved.write(cache, reversed);
        moved.write(moved, reversed); // and back again
        moved.reset(rows);
        moved.write(layer.deserializeState(saved), rows);
        for (const { x, options } of later) {
          const expected = await layer.stepMany(x, cache, options);
          expectSameBits(await layer.stepMany(x, moved, options), expected, "y");
        }
        expect(moved.tokens).toEqual(cache.tokens);
        layer.dispose();
      }
    },
  );

  test.each([6, 150])(
    "dState %i: caches stepped in turns keep their states, also past the layer's end",
    async (dState) => {
      const [H, L] = [4, 100];
      for (const engine of engines) {
        const layer = await engine.lru(initLru({ dModel: H, dState, seed: 1 }));
        const x = floats(L * H, 1);
        const whole = (await layer.forward(x)).state;
        const [one, two] = [layer.allocateInferenceCache(1), layer.allocateInferenceCache(2)];
        let [{ state }, copy] = [await layer.forward(new Float32Array()), one];
        for (let t = 0; t < L; t++) {
          const xt = x.subarray(t * H, (t + 1) * H);
          const y = layer.stepSync(xt, one);
          if (t % 7 === 0) copy = one.clone();
          else layer.stepSync(xt, copy);
          const yy = layer.stepSync(Float32Array.of(...xt, ...xt), two); // more rows than before
          const next = await layer.forward(xt, { state });
          state = next.state;
          expectSameBits(Float32Array.of(...y, ...next.y), yy, `y of token ${t}`);
        }
        layer.dispose();
        const { re, im } = whole.get();
        for (const cache of [one, copy, state]) expectSameBits(cache.get().re, re, "re");
        for (const cache of [one, copy, state]) expectSameBits(cache.get().im, im, "im");
        expectSameBits(two.get().re, Float32Array.of(...re, ...re), "re of two rows");
        expect(state.tokens).toEqual(Float64Array.of(L));
      }
    },
  );
});

test.each<[BackendName, number]>([
  ["reference", 1e-5],
  ["webgpu", 5e-5],
])("%s: the same within the accuracy of models", async (backend, most) => {
  const cpu = await createEngine({ backend: "wasm" });
  const engine = await createEngine({ backend: [backend, "reference"] });
  for (const name of names) {
    const [layer, other] = [await loadLayer(engine, name), await loadLayer(cpu, name)];
    const calls = callsOf(layer, 4, isOneRate(name), [1, 3, 0, 7, 1]);
    const { ys } = await together(layer, calls);
    for (const [i, y] of alone(other, calls).ys.entries()) {
      const actual = ys[i] as Float32Array;
      // A model that pools in windows has nothing to say before the first is full.
      expect(actual.map(isNone)).toEqual(y.map(isNone));
      const [some, wanted] = [actual.filter(isSome), y.filter(isSome)];
      if (wanted.length > 0) expect(relativeError(some, wanted), `${name}, call ${i}`).toBeLessThan(most);
    }
    layer.dispose();
  }
  await engine.dispose();
  await cpu.dispose();
});

test("many steps of what gives a row of y for each are one forward: threads and the GPU take part", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const step = vi.spyOn(WasmRunner.prototype, "step");
  for (const [name, isOne] of [
    ["lru_01_basic", true],
    ["ml_seq_01_prenorm", true],
    ["ml_cls_01_mean_prenorm", false],
  ] as const) {
    const layer = await loadLayer(engine, name);
    await layer.stepMany(floats(5 * layer.inputWidth, 1), layer.allocateInferenceCache());
    expect(step, name).toHaveBeenCalledTimes(isOne ? 0 : 5);
    step.mockClear();
  }
  step.mockRestore();
  await engine.dispose();
});

test("many steps of a model that pools let others be heard: disposed of in their midst, the cache is as it was", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const layer = await loadLayer(engine, "ml_cls_01_mean_prenorm");
  const cache = layer.allocateInferenceCache(1);
  await layer.stepMany(floats(20 * layer.inputWidth, 1), cache);
  const [before, tokens] = [[cache.get()].flat(), cache.tokens];
  let [now, steps] = [performance.now(), 0];
  const clock = vi.spyOn(performance, "now").mockImplementation(() => now);
  const original = WasmRunner.prototype.step;
  const step = vi.spyOn(WasmRunner.prototype, "step").mockImplementation(function (
    this: WasmRunner,
    ...args
  ) {
    now += 1;
    if (++steps === 3) macrotask().then(() => layer.dispose());
    original.apply(this, args);
  });
  const pending = layer.stepMany(floats(200 * layer.inputWidth, 2), cache);
  await expect(pending).rejects.toMatchObject({ code: "disposed" });
  for (const spy of [clock, step]) spy.mockRestore();
  expect(steps).toBeLessThan(20);
  expect(cache.tokens).toEqual(tokens);
  expect([cache.get()].flat()).toEqual(before);
  await engine.dispose();
});

test.each([
  ["all streams", undefined],
  ["some", Int32Array.of(3, 0, 2)],
])("a step with resets for which there is no memory leaves the cache as it was: %s", async (_, rows) => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const layer = await engine.lru(initLru({ dModel: 8, dState: 8, seed: 1 }));
  const cache = layer.allocateInferenceCache(4);
  cache.set(floats(32, 1), floats(32, 2));
  const before = layer.serializeState(cache);
  const [streams, reset] = [rows?.length ?? 4, [1, 0, 1, 0].slice(0, rows?.length)];
  const x = floats(8 * streams, 3);
  const arena = vi.spyOn(Arena.prototype, "allocate").mockImplementation(() => {
    throw new LinrecError("out-of-memory", "None left.");
  });
  const step = () => layer.stepSync(x, cache, { reset, ...(rows && { rows }) });
  expect(step).toThrow("None left.");
  arena.mockRestore();
  expectSameBits(layer.serializeState(cache), before, "the state");
  step();
  expect([...cache.tokens]).toEqual(rows ? [1, 0, 1, 1] : [1, 1, 1, 1]);
  await engine.dispose();
});

test("steps and copies of a state for which there is no memory: an error of the list, and the cache is as it was", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 6, seed: 1 }));
  const batch = 1000;
  let cache = lru.allocateInferenceCache(batch);
  const x = floats(3 * batch * 4, 1);
  const reset = new Uint8Array(3 * batch).fill(1);
  lru.stepSync(x.subarray(0, batch * 4), cache);
  const before = lru.serializeState(cache);
  const calls: (() => unknown)[] = [
    () => lru.stepSync(x.subarray(0, batch * 4), cache),
    () => lru.stepMany(x, cache, { reset }),
    () => lru.serializeState(cache),
    () => cache.get(),
  ];
  const real = [Float32Array, Float64Array, Uint8Array] as const;
  for (const [i, call] of calls.entries()) {
    for (let nth = 0; ; nth++) {
      let left = nth;
      for (const Real of real) {
        const construct: ProxyHandler<typeof Real>["construct"] = (target, args, self) => {
          if (args[0] >= batch && left-- === 0) throw new RangeError("Array buffer allocation failed");
          return Reflect.construct(target, args, self);
        };
        vi.stubGlobal(Real.name, new Proxy(Real, { construct }));
      }
      let error: unknown;
      try {
        await call();
      } catch (thrown) {
        error = thrown;
      }
      vi.unstubAllGlobals();
      if (left >= 0) {
        expect(nth, `allocations of call ${i}`).toBeGreaterThan(0);
        break;
      }
      expect(error, `call ${i}, allocation ${nth}`).toMatchObject({ code: "out-of-memory" });
      expectSameBits(lru.serializeState(cache), before, `call ${i}, allocation ${nth}`);
    }
    cache = lru.deserializeState(before);
  }
  await engine.dispose();
});

test("what cannot be read of a cache, or written to it, is said, and nothing is written", async () => {
  const engine = await createEngine({ backend: "wasm" });
  const [layer, foreign] = [
    await loadLayer(engine, names[0] as string),
    await loadLayer(engine, names[0] as string),
  ];
  const cache = layer.allocateInferenceCache(3);
  await layer.stepMany(floats(3 * layer.inputWidth, 1), cache);
  const before = layer.serializeState(cache);
  const [one, two] = [Int32Array.of(1), Int32Array.of(0, 1)];
  const wrong: [() => unknown, LinrecErrorCode, RegExp][] = [
    [() => cache.read(Int32Array.of(3)), "invalid-argument", /rows\[0\] is 3; the cache has 3/],
    [() => cache.read(Int32Array.of(1, 1)), "invalid-argument", /each row may be given once/],
    [() => cache.read([1] as never), "wrong-dtype", /Int32Array/],
    [() => cache.write(layer.allocateInferenceCache(1), two), "shape-mismatch", /1 streams, to 2 rows/],
    [() => cache.write(layer.allocateInferenceCache(1)), "shape-mismatch", /1 streams, to 3 rows/],
    [() => cache.write(foreign.allocateInferenceCache(1), one), "foreign-cache", /another layer/],
    [() => cache.write({} as never, one), "invalid-argument", /must come from/],
  ];
  for (const [call, code, message] of wrong) expectLinrecError(await errorOf(call), code, message);
  expectSameBits(layer.serializeState(cache), before, "the cache");
  const pending = layer.stepMany(floats(100 * 3 * layer.inputWidth, 3), cache);
  const other = layer.allocateInferenceCache(3);
  for (const call of [() => cache.read(one), () => cache.write(other), () => other.write(cache)])
    expectLinrecError(await errorOf(call), "cache-busy", /Await it first/);
  await pending;
  await engine.dispose();
});

test("a call that is refused, or fails, leaves the cache as it was", async () => {
  const engine = await createEngine({ backend: "wasm", nonFinite: "reject" });
  const layer = await loadLayer(engine, names[0] as string);
  const cache = layer.allocateInferenceCache(3);
  await layer.stepMany(floats(4 * 3 * layer.inputWidth, 1), cache);
  const [before, tokens] = [[cache.get()].flat(), cache.tokens];
  const x = floats(2 * 2 * layer.inputWidth, 2);
  const rows = Int32Array.of(2, 0);
  await expect(layer.stepMany(x, cache, { rows: Int32Array.of(2, 2) })).rejects.toThrow(/once/);
  await expect(layer.stepMany(x.fill(Number.NaN, 3), cache, { rows })).rejects.toMatchObject({
    code: "non-finite",
  });
  const pending = layer.stepMany(floats(100 * 3 * layer.inputWidth, 3), cache);
  expect(() => layer.stepSync(floats(3 * layer.inputWidth, 4), cache)).toThrow(/Await it first/);
  layer.dispose();
  await expect(pending).rejects.toMatchObject({ code: "disposed" });
  expect(cache.tokens).toEqual(tokens);
  expect([cache.get()].flat()).toEqual(before);
  await engine.dispose();
});
