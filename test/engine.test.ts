/** What an engine and its layers do beyond computing: states, outputs, progress, empty work, memory, disposal. */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Arena } from "../src/cpu/arena.js";
import { kernelBytes } from "../src/cpu/kernels.js";
import { PooledWorker } from "../src/cpu/pool.js";
import {
  createEngine,
  type Engine,
  type Lru,
  type Progress,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { runReference } from "../src/reference.js";
import { macrotask } from "../src/runtime/macrotask.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { createPrivateEngine } from "./support/engines.js";
import { loadGolden, relativeError } from "./support/golden.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const [dModel, dState] = [5, 7];
const params = hardParams(dModel, dState, 1);
const x = floats(2 * 50 * dModel, 2);

const modes: [string, () => Promise<Engine>][] = [
  ["reference", () => createEngine({ backend: "reference" })],
  ["wasm, calling thread", () => createEngine({ backend: "wasm", threads: 0 })],
  ["wasm, 2 threads", () => createEngine({ backend: "wasm", threads: 2 })],
  ["wasm, 2 threads, private memories", () => createPrivateEngine("baseline", { threads: 2 })],
  ["webgpu", () => createEngine({ backend: ["webgpu", "reference"] })],
];

describe.each(modes)("%s", (name, open) => {
  let engine: Engine;
  let lru: Lru;
  beforeAll(async () => {
    engine = await open();
    lru = await engine.lru(params);
  });
  afterAll(() => engine.dispose());

  test("what is not written to out is in ordinary memory, and its type says so", async () => {
    const { y, state } = await lru.forward(x, { batch: 2 });
    const xt = x.subarray(0, 2 * dModel);
    const steps = [
      lru.stepSync(xt, state),
      await lru.step(xt, state, { reset: [1, 0] }),
      await lru.stepMany(xt, state),
    ];
    for await (const piece of lru.forwardStream(x)) steps.push(piece.y);
    const plain: Float32Array<ArrayBuffer>[] = [y, ...steps, lru.generate(xt, 2)]; // what Blob and fetch want
    expect(plain.map(({ buffer }) => Object.prototype.toString.call(buffer))).toEqual(
      plain.map(() => "[object ArrayBuffer]"),
    );
    const out = engine.allocate(x.length);
    const { y: lent } = await lru.forward(x, { batch: 2, out });
    // @ts-expect-error: the engine's own memory may be shared
    const kept: Float32Array<ArrayBuffer> = lent;
    expect(kept).toBe(out);
    engine.free(out);
  });

  const onBackend = (title: string, body: () => Promise<void>) =>
    test(title, async (context) => {
      const { available, reason } = engine.backends.webgpu;
      if (name === "webgpu" && !available) context.skip(reason);
      await body();
    });

  onBackend("forward goes on from a state and does not change it", async () => {
    const first = await lru.forward(x, { batch: 2 });
    const before = lru.serializeState(first.state);
    const second = await lru.forward(x, { batch: 2, state: first.state });
    expectSameBits(lru.serializeState(first.state), before, "the state that was passed in");
    expect(second.state).not.toBe(first.state);
    const { re, im } = first.state.get();
    const again = lru.allocateInferenceCache(2);
    again.set(re, im);
    const third = await lru.forward(x, { batch: 2, state: again });
    expect(relativeError(third.y, second.y)).toBeLessThan(1e-6);
    expect(relativeError(first.y, second.y)).toBeGreaterThan(1e-3); // it did make a difference
  });

  onBackend("an abort leaves the state that was passed in as it was, whenever it comes", async () => {
    const { state } = await lru.forward(x, { batch: 2 });
    const before = lru.serializeState(state);
    const expected = await lru.forward(x, { state });
    for (const turns of [0, 1, 3, 10, 30, 100]) {
      const controller = new AbortController();
      const stopped = lru.forward(x, { state, signal: controller.signal }).catch((error: Error) => error);
      for (let turn = 0; turn < turns; turn++) await undefined;
      controller.abort();
      const outcome = await stopped;
      if (turns === 0 || outcome instanceof Error) expectLinrecError(outcome, "aborted", /AbortSignal/);
      else expectSameBits(outcome.y, expected.y, `y, ${turns} turns later`);
      expectSameBits(lru.serializeState(state), before, `the state, ${turns} turns later`);
    }
    expectSameBits((await lru.forward(x, { state })).y, expected.y, "the next y");
  });

  // `lru.forward(x2, { state })` after `lru.forward(x, { batch: 8 })`.
  onBackend("a state brings its batch along", async () => {
    const { state } = await lru.forward(x, { batch: 2 });
    const { y } = await lru.forward(x, { state });
    expectSameBits(y, (await lru.forward(x, { state, batch: 2 })).y, "y");
  });

  onBackend("x, lengths and the parameters are only read", async () => {
    const own = hardParams(dModel, dState, 4);
    const copies = structuredClone(own);
    const layer = await engine.lru(own);
    const input = x.slice();
    const lengths = [50, 20];
    await layer.forward(input, { batch: 2, lengths });
    layer.stepSync(input.subarray(0, dModel), layer.allocateInferenceCache());
    expectSameBits(input, x, "x");
    expect(lengths).toEqual([50, 20]);
    expect(own).toEqual(copies);
    const { y } = await layer.forward(x, { batch: 2 });
    for (const values of Object.values(own)) values.fill(9); // nothing of it is retained
    expectSameBits((await layer.forward(x, { batch: 2 })).y, y, "y");
    layer.dispose();
  });

  onBackend("out is written whole and returned, whatever was in it", async () => {
    const { y } = await lru.forward(x, { batch: 2, lengths: [50, 13] });
    const memory = new Float32Array(x.length + 20).fill(Number.NaN);
    const out = memory.subarray(10, 10 + x.length);
    expect((await lru.forward(x, { batch: 2, lengths: [50, 13], out })).y).toBe(out);
    expectSameBits(out, y, "out");
    expect(memory.subarray(0, 10).every(Number.isNaN) && memory.subarray(-10).every(Number.isNaN)).toBe(true);
    expect(out.subarray((50 + 13) * dModel).every((value) => Object.is(value, 0))).toBe(true);
  });

  onBackend("x that is a part of a larger array", async () => {
    const memory = floats(x.length + 33, 9);
    memory.set(x, 17);
    const { y } = await lru.forward(memory.subarray(17, 17 + x.length), { batch: 2 });
    expectSameBits(y, (await lru.forward(x, { batch: 2 })).y, "y");
  });

  onBackend("progress never falls, and ends at the total", async () => {
    const long = floats(2 * 30_000 * dModel, 3);
    const seen: Progress[] = [];
    await lru.forward(long, { batch: 2, onProgress: (progress) => seen.push(progress) });
    expect(seen.length).toBeGreaterThan(0);
    expect(seen.every(({ total }) => total === 60_000)).toBe(true);
    const done = seen.map((progress) => progress.done);
    expect(done).toEqual([...done].sort((a, b) => a - b));
    expect(done.at(-1)).toBe(60_000);
  });

  onBackend("no tokens, no rows: an empty y, and the state as it was", async () => {
    const { state } = await lru.forward(x, { batch: 2 });
    const nothing = await lru.forward(new Float32Array(0), { batch: 2, state });
    expect(nothing.y).toHaveLength(0);
    expectSameState([lru, nothing.state], [lru, state], "no tokens");
    const ragged = await lru.forward(x, { batch: 2, state, lengths: [0, 0] });
    expect(ragged.y.every((value) => value === 0)).toBe(true);
    expectSameState([lru, ragged.state], [lru, state], "rows without tokens");
    const noRows = await lru.forward(new Float32Array(0), { batch: 0 });
    expect([noRows.y.length, noRows.state.batch]).toEqual([0, 0]);
    const cache = lru.allocateInferenceCache(0);
    expect(lru.stepSync(new Float32Array(0), cache)).toHaveLength(0);
    expect(await lru.step(new Float32Array(0), cache)).toHaveLength(0);
    expect(lru.deserializeState(lru.serializeState(cache)).batch).toBe(0);
  });

  onBackend("step = stepSync, within what the backend promises", async () => {
    const [a, b] = [lru.allocateInferenceCache(2), lru.allocateInferenceCache(2)];
    for (let t = 0; t < 35; t++) {
      const xt = x.subarray(t * 2 * dModel, (t + 1) * 2 * dModel).slice(0, 2 * dModel);
      if (xt.length < 2 * dModel) break;
      expect(relativeError(await lru.step(xt, a), lru.stepSync(xt, b))).toBeLessThan(2e-6);
    }
    expect(relativeError(a.get().re, b.get().re)).toBeLessThan(2e-6);
  });

  onBackend("a model's state, too", async () => {
    const golden = await loadGolden("ml_cls_01_mean_prenorm");
    const model = await engine.model(writeSafetensors(golden.checkpoint), golden.spec);
    const input = floats(3 * 60 * 2, 4);
    const first = await model.forward(input, { batch: 3 });
    const second = await model.forward(input, { batch: 3, state: first.state });
    const twice = new Float32Array(2 * input.length);
    for (let row = 0; row < 3; row++) {
      const values = input.subarray(row * 120, (row + 1) * 120);
      twice.set(values, row * 240);
      twice.set(values, row * 240 + 120);
    }
    const expected = runReference(golden.program, { x: twice, batch: 3, seqLen: 120 }).y;
    expect(relativeError(second.y, expected)).toBeLessThan(name === "webgpu" ? 5e-5 : 1e-5);
    model.dispose();
  });
});

test("a state goes from one backend to another", async () => {
  const engine = await createEngine({ backend: ["webgpu", "wasm"], threads: 1 });
  const backends = (["reference", "wasm", "webgpu"] as const).filter(
    (name) => engine.backends[name].available,
  );
  const lru = await engine.lru(params);
  const twice = floats(2 * 100 * dModel, 8);
  const halves = [0, 47].map((from, i) => {
    const part = [0, 1].map((row) =>
      twice.slice((row * 100 + from) * dModel, (row * 100 + [47, 100][i]!) * dModel),
    );
    return Float32Array.from(part.flatMap((values) => [...values]));
  }) as [Float32Array, Float32Array];
  const whole = await lru.forward(twice, { batch: 2, backend: "reference" });
  for (const from of backends) {
    const first = await lru.forward(halves[0], { batch: 2, backend: from });
    const saved = lru.deserializeState(lru.serializeState(first.state));
    for (const to of backends) {
      const second = await lru.forward(halves[1], { batch: 2, state: saved, backend: to });
      const { re, im } = second.state.get();
      const expected = whole.state.get();
      expect(
        relativeError([...re, ...im], [...expected.re, ...expected.im]),
        `${from} to ${to}`,
      ).toBeLessThan(2e-6);
    }
  }
  await engine.dispose();
});

test("an engine without WASM lends arrays and tests itself, too", async () => {
  const engine = await createEngine({ backend: "reference" });
  const array = engine.allocate(12);
  expect(array).toEqual(new Float32Array(12));
  expectLinrecError(
    await errorOf(() => engine.allocate(2 ** 40)),
    "out-of-memory",
    /Memory for 1099511627776 numbers/,
  );
  engine.free(array);
  const { passed, results } = await engine.selfTest();
  expect([passed, ...new Set(results.map(({ backend }) => backend))]).toEqual([true, "reference"]);
  await engine.dispose();
});

test("an array that is given back twice is given back once: what has its place by then is left alone", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const [first, second, third] = [3, 4, 5].map((value) => {
    const array = engine.allocate(2 ** 18).fill(value);
    if (value < 5) engine.free(array);
    return array;
  }) as [Float32Array, Float32Array, Float32Array];
  engine.free(first);
  engine.free(second);
  engine.allocate(2 ** 18).fill(6);
  expect(third.every((value) => value === 5)).toBe(true);
  engine.free(third);
  const lru = await engine.lru(hardParams(16, 16, 1)); // its weights take the place
  const long = floats(16 * 64, 1);
  const before = (await lru.forward(long)).y;
  engine.free(third);
  for (let i = 0; i < 5000; i++) engine.allocate(32).fill(7);
  expectSameBits((await lru.forward(long)).y, before, "y");
  await engine.dispose();
});

test.each([
  ["shared", () => createEngine({ backend: "wasm", threads: 2 })],
  ["private", () => createPrivateEngine("baseline", { threads: 2 })],
])(
  "layers that come and go leave nothing in the engine's memory, nor in its workers (%s)",
  async (_, open) => {
    const allocations = vi.spyOn(Arena.prototype, "allocate");
    const engine = await open();
    const calls = vi.spyOn(PooledWorker.prototype, "call");
    const long = floats(20_000 * 64, 1);
    const used: number[] = [];
    for (let i = 0; i < 3; i++) {
      const lru = await engine.lru(hardParams(64, 96, i));
      await lru.step(long.subarray(0, 64), lru.allocateInferenceCache());
      await lru.forward(long);
      calls.mockClear();
      lru.dispose();
      await macrotask();
      expect(calls, "each worker is told").toHaveBeenCalledTimes(2);
      used.push((allocations.mock.contexts[0] as Arena).used);
    }
    for (const spy of [allocations, calls]) spy.mockRestore();
    expect(used).toEqual([used[0], used[0], used[0]]);
    await engine.dispose();
  },
);

test("a checkpoint is the same layer wherever its bytes are", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(params);
  const bytes = writeModel(lru);
  const buffer = bytes.slice().buffer;
  const shared = typeof SharedArrayBuffer === "undefined" ? buffer : new SharedArrayBuffer(bytes.length);
  new Uint8Array(shared).set(bytes);
  const url = new URL(`data:application/octet-stream;base64,${btoa(String.fromCharCode(...bytes))}`);
  const expected = await lru.forward(x, { batch: 2 });
  for (const source of [
    bytes,
    buffer,
    shared,
    new Blob([buffer]),
    new File([buffer], "lru"),
    url,
    url.href,
  ]) {
    const { y } = await (await engine.lru(source)).forward(x, { batch: 2 });
    expectSameBits(y, expected.y, Object.prototype.toString.call(source));
  }
  await engine.dispose();
});

test("kernels that are given are used in shared memory or in private, as they were built", async () => {
  for (const shared of [true, false]) {
    const engine = await createEngine({ backend: "wasm", wasm: kernelBytes("baseline", shared), threads: 1 });
    const isShared = shared && typeof SharedArrayBuffer !== "undefined";
    expect(engine.backends.wasm).toMatchObject({ available: true, simd: "custom", sharedMemory: isShared });
    await engine.dispose();
  }
});

test.each([
  [0, "shared"],
  [2, "shared"],
  [2, "private"],
] as const)(
  "of ragged rows progress ends at the total, too: %i threads, %s memory",
  async (threads, memory) => {
    const engine = await (memory === "shared"
      ? createEngine({ backend: "wasm", simd: "baseline", threads })
      : createPrivateEngine("baseline", { threads }));
    const lru = await engine.lru(params);
    for (const lengths of [
      [5000, 100],
      [0, 5000],
      [0, 0],
    ]) {
      const seen: number[] = [];
      const onProgress = ({ done }: Progress) => seen.push(done);
      await lru.forward(new Float32Array(2 * 5000 * dModel), { batch: 2, lengths, onProgress });
      expect(seen.at(-1), String(lengths)).toBe(10_000);
      expect(seen).toEqual([...seen].sort((a, b) => a - b));
    }
    await engine.dispose();
  },
);

test("lengths are what is checked of them, whatever an iterator says", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(params);
  const lengths = Object.assign([50, 20], {
    *[Symbol.iterator]() {
      yield -7;
    },
  });
  const expected = await lru.forward(x, { batch: 2, lengths: [50, 20] });
  const { y, state } = await lru.forward(x, { batch: 2, lengths });
  expectSameBits(y, expected.y, "y");
  expect([...state.tokens]).toEqual([50, 20]);
  await engine.dispose();
});

test("kernels that are given come from bytes, a module, an answer or an address", async () => {
  const bytes = kernelBytes("baseline", false);
  const url = new URL(`data:application/wasm;base64,${btoa(String.fromCharCode(...bytes))}`);
  const headers = { "Content-Type": "application/wasm" };
  for (const wasm of [bytes.buffer, new WebAssembly.Module(bytes), new Response(bytes, { headers }), url]) {
    const engine = await createEngine({ backend: "wasm", wasm, threads: 0 });
    expect(engine.backends.wasm).toMatchObject({ available: true, simd: "custom", sharedMemory: false });
    await engine.dispose();
  }
});

test('simd "baseline" is that also where relaxed SIMD would run', async () => {
  const validate = vi.spyOn(WebAssembly, "validate").mockReturnValue(true);
  const engine = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
  validate.mockRestore();
  expect(engine.backends.wasm).toMatchObject({ available: true, simd: "baseline" });
  await engine.dispose();
});

test("dispose is idempotent, at once and later, and `await using` calls it", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 1 });
  const lru = await engine.lru(params);
  await lru.forward(x, { batch: 2 });
  await Promise.all([engine.dispose(), engine.dispose(), engine[Symbol.asyncDispose]()]);
  await engine.dispose();
  expect(() => lru.dispose()).not.toThrow();
  await lru[Symbol.asyncDispose]();
});
