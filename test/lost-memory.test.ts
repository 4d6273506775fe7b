/**
 * Arrays that are in use belong to their caller all the same: their memory may be transferred away or shrink while a call runs.
 * The call then rejects with `detached`, whatever ran it, and nothing else is touched or blamed.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createEngine, type Engine, initLru, type Lru } from "../src/index.js";
import { expectSameBits } from "./support/bits.js";
import { builds, createPrivateEngine, needBackend } from "./support/engines.js";
import { detached, errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";
import { loadLayer } from "./support/streams.js";

const [dModel, dState] = [8, 5];
const lost = /memory of x, out or integrationTimesteps was transferred away.*until the promise settles/;

/** A buffer that can be of up to so many bytes: of ES2024, which the sources are not written in. */
function resizable(bytes: number, most: number): ArrayBuffer & { resize(bytes: number): void } {
  const Resizable = ArrayBuffer as unknown as new (
    bytes: number,
    options: object,
  ) => ReturnType<typeof resizable>;
  return new Resizable(bytes, { maxByteLength: most });
}

const engines: Record<string, (told: string[]) => Promise<Engine>> = {
  "the calling thread": (told) => createEngine({ backend: "wasm", threads: 0, ...listening(told) }),
  "two workers": (told) => createEngine({ backend: "wasm", threads: 2, ...listening(told) }),
  "two workers with memories of their own": (told) =>
    createPrivateEngine("baseline", { threads: 2, ...listening(told) }),
  "a list": (told) => createEngine({ backend: ["wasm", "reference"], threads: 0, ...listening(told) }),
  "the reference": (told) => createEngine({ backend: "reference", ...listening(told) }),
  "the GPU": (told) => createEngine({ backend: ["webgpu", "wasm"], threads: 0, ...listening(told) }),
};

function listening(told: string[]) {
  return { onFallback: ({ reason }: { reason: string }) => void told.push(reason) };
}

describe.each(Object.keys(engines))("on %s", (name) => {
  const told: string[] = [];
  let engine: Engine;
  let lru: Lru;
  let other: Lru;
  beforeAll(async () => {
    engine = await (engines[name] as (typeof engines)[string])(told);
    lru = await engine.lru(hardParams(dModel, dState, 1));
    other = await engine.lru(hardParams(dModel, dState, 2));
    told.length = 0;
  });
  afterAll(() => engine.dispose());

  /** What the losing leaves of the engine: all of it. */
  const whole = async (work: () => Promise<void>) => {
    const x = floats(50 * dModel, 3);
    const before = await other.forward(x);
    const { backend } = other;
    await work();
    expectSameBits((await other.forward(x)).y, before.y, "another layer");
    expect(other.backend).toBe(backend);
    expect(told).toEqual([]);
  };

  test.for([60, 30_000])("%i tokens, lost at once", async (seqLen, context) => {
    if (name === "the GPU") needBackend(context, engine, "webgpu");
    const size = seqLen * dModel;
    const state = lru.allocateInferenceCache(1);
    await whole(async () => {
      const x = floats(size, 4) as Float32Array<ArrayBuffer>;
      const running = lru.forward(x, { state });
      detached(x);
      expectLinrecError(await errorOf(() => running), "detached", lost);
      for (const mine of ["out", "integrationTimesteps"] as const) {
        const array = new Float32Array(mine === "out" ? size : seqLen).fill(1);
        const forward = lru.forward(floats(size, 4), { [mine]: array });
        detached(array);
        expectLinrecError(await errorOf(() => forward), "detached", lost);
      }
      const buffer = resizable(4 * size, 4 * size);
      const forward = lru.forward(new Float32Array(buffer));
      buffer.resize(2 * size);
      expectLinrecError(await errorOf(() => forward), "detached", lost);
    });
    expect([...state.tokens]).toEqual([0]);
  });

  test("200000 tokens, lost while they are read", async () => {
    await whole(async () => {
      const x = floats(200_000 * dModel, 5) as Float32Array<ArrayBuffer>;
      const onProgress = () => void (x.length > 0 && detached(x));
      expectLinrecError(await errorOf(() => lru.forward(x, { onProgress })), "detached", lost);
    });
  });

  test("many steps: the cache is as it was", async () => {
    for (const streams of [1, 2]) {
      const cache = lru.allocateInferenceCache(streams);
      lru.stepSync(floats(streams * dModel, 6), cache);
      const before = lru.serializeState(cache);
      await whole(async () => {
        const x = floats(100 * streams * dModel, 7) as Float32Array<ArrayBuffer>;
        const steps = lru.stepMany(x, cache);
        detached(x);
        expectLinrecError(await errorOf(() => steps), "detached", lost);
      });
      expect(lru.serializeState(cache)).toEqual(before);
    }
  });
});

test("a network whose rate changes, a bidirectional layer: detached", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const model = await loadLayer(engine, "unet_01_default");
  const both = await engine.bidirectional({
    forward: initLru({ dModel, dState, seed: 1 }),
    backward: initLru({ dModel, dState, seed: 2 }),
  });
  const forwards = [
    { width: model.inputWidth, forward: (x: Float32Array) => model.forward(x, {}) },
    { width: dModel, forward: (x: Float32Array) => both.forward(x) },
  ];
  for (const { width, forward: run } of forwards) {
    const x = floats(4000 * width, 8) as Float32Array<ArrayBuffer>;
    const forward = run(x);
    detached(x);
    expectLinrecError(await errorOf(() => forward), "detached", lost);
  }
  await engine.dispose();
});

test("a cache on the GPU takes its token with it: the state is not lost", async (context) => {
  const engine = await createEngine({ backend: ["webgpu", "wasm"], threads: 0 });
  needBackend(context, engine, "webgpu");
  const lru = await engine.lru(hardParams(dModel, dState, 1));
  const [cache, twin] = [await lru.allocateGpuCache(2), await lru.allocateGpuCache(2)];
  for (let t = 0; t < 3; t++) {
    const x = floats(2 * dModel, t) as Float32Array<ArrayBuffer>;
    const expected = await lru.step(x.slice(), twin);
    const step = lru.step(x, cache);
    if (t === 1) detached(x);
    else x.fill(0);
    expectSameBits(await step, expected, `step ${t}`);
  }
  const out = new Float32Array(2 * dModel);
  const step = lru.step(floats(2 * dModel, 9), cache, { out });
  detached(out);
  expectLinrecError(await errorOf(() => step), "detached", lost);
  expect([...(await cache.read()).tokens]).toEqual([4, 4]);
  await engine.dispose();
});

/** Its `subarray` and `slice` give something else than they should. */
class Whole extends Float32Array {
  constructor(source: number | Float32Array) {
    super(source as Float32Array);
  }

  static of2(values: Float32Array): Whole {
    const made = new Whole(values.length);
    made.set(values);
    return made;
  }
}

test.each(builds)("%s: arrays of a subclass are what they hold", async (simd) => {
  const plain = await createEngine({ backend: "wasm", simd, threads: 0 });
  const engines = [plain, await createEngine({ backend: "wasm", simd, threads: 2 })];
  engines.push(await createPrivateEngine(simd, { threads: 2 }));
  engines.push(await createEngine({ backend: "reference" }));
  const [batch, seqLen] = [2, 300];
  const x = floats(batch * seqLen * dModel, 1);
  const times = floats(batch * seqLen, 2).map(Math.abs);
  const reset = Array.from({ length: batch * seqLen }, (_, t) => t % 70 === 0);
  for (const engine of engines) {
    const lru = await engine.lru(hardParams(dModel, dState, 1));
    for (const more of [{}, { reset }, { every: 3 }, { integrationTimesteps: times }]) {
      const expected = await lru.forward(x, { batch, ...more });
      const timed = "integrationTimesteps" in more && { integrationTimesteps: Whole.of2(times) };
      const out = new Whole(expected.y.length);
      const found = await lru.forward(Whole.of2(x), { batch, ...more, ...timed, out });
      expect(found.y).toBe(out);
      expectSameBits(new Float32Array(out), expected.y, Object.keys(more).join());
    }
    const { re, im } = (await lru.forward(x, { batch })).state.get();
    const [cache, twin] = [lru.allocateInferenceCache(batch), lru.allocateInferenceCache(batch)];
    cache.set(Whole.of2(re), Whole.of2(im));
    twin.set(re, im);
    expect(lru.serializeState(cache)).toEqual(lru.serializeState(twin));
    expect([...lru.errorBound(Whole.of2(x), { batch })]).toEqual([...lru.errorBound(x, { batch })]);
    await engine.dispose();
  }
});

test("an out that grows with its buffer is written where it was", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(hardParams(dModel, dState, 1));
  const [batch, seqLen] = [2, 100_000];
  const x = floats(batch * seqLen * dModel, 1);
  const expected = await lru.forward(x, { batch });
  const buffer = resizable(x.byteLength, 2 * x.byteLength);
  const out = new Float32Array(buffer);
  const forward = lru.forward(x, { batch, out });
  buffer.resize(2 * x.byteLength);
  await forward;
  expectSameBits(out.subarray(0, x.length), expected.y, "y");
  expect(out.subarray(x.length).every((value) => value === 0)).toBe(true);
  await engine.dispose();
});

test("out may not be what timesteps are read from", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(initLru({ dModel: 1, dState: 2, seed: 1 }));
  const all = new Float32Array(150).fill(1);
  const [integrationTimesteps, out] = [all.subarray(0, 100), all.subarray(50)];
  const overlapping = /out and integrationTimesteps overlap in memory.*Use two arrays/;
  const forward = () => lru.forward(floats(100, 1), { integrationTimesteps, out });
  expectLinrecError(await errorOf(forward), "invalid-argument", overlapping);
  const cache = lru.allocateInferenceCache(100);
  const step = () => lru.stepSync(floats(100, 1), cache, { integrationTimesteps, out });
  expectLinrecError(await errorOf(step), "invalid-argument", overlapping);
  await engine.dispose();
});

test("options are read once", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const [lru, other] = [
    await engine.lru(hardParams(dModel, dState, 1)),
    await engine.lru(hardParams(dModel, dState, 2)),
  ];
  const x = floats(10 * dModel, 1);
  const [own, foreign] = [(await lru.forward(x)).state, (await other.forward(x)).state];
  const expected = await lru.forward(x, { state: own });
  let reads = 0;
  const options = {
    get state() {
      return reads++ === 0 ? own : foreign;
    },
  };
  expectSameBits((await lru.forward(x, options)).y, expected.y, "y");
  await engine.dispose();
});

test("stepMany goes by the rows and marks that it was given", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(hardParams(dModel, dState, 1));
  const cache = lru.allocateInferenceCache(4);
  const rows = Int32Array.of(0, 1);
  const steps = lru.stepMany(floats(20 * 2 * dModel, 1), cache, { rows });
  rows.set([3, 2]);
  await steps;
  expect([...cache.tokens]).toEqual([20, 20, 0, 0]);
  // What is not 0 resets, however small or large.
  const one = lru.allocateInferenceCache(1);
  await lru.stepMany(floats(6 * dModel, 1), one, { reset: [0, 0, 256, 0, 0.25, 0] });
  expect([...one.tokens]).toEqual([2]);
  const reset = Uint8Array.of(0, 0, 1, 0, 0, 0);
  const marked = lru.stepMany(floats(6 * dModel, 1), one, { reset });
  reset.fill(1);
  structuredClone(reset, { transfer: [reset.buffer] });
  await marked;
  expect([...one.tokens]).toEqual([4]);
  await engine.dispose();
});
