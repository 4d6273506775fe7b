/** Wrong options, parameters, caches and files; what is disposed of; what is not here: the right LinrecError for each. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEngine,
  type Engine,
  type EngineOptions,
  initLru,
  isLinrecError,
  LinrecError,
  type Lru,
  type LruCache,
  type LruParams,
  toFloat32,
  toLruParams,
  writeSafetensors,
} from "../src/index.js";
import { expectSameBits } from "./support/bits.js";
import { builds } from "./support/engines.js";
import { loadGolden } from "./support/golden.js";
import { detached, errorOf, expectLinrecError, type Misuse, wrong } from "./support/misuse.js";
import { floats } from "./support/problems.js";

const noGpu = { requestAdapter: async () => null };

/** A WebAssembly module that imports a function `env.f`, and does nothing. */
const importsF = Uint8Array.of(
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0],
  ...[2, 9, 1, 3, 0x65, 0x6e, 0x76, 1, 0x66, 0, 0],
);

/** The address of a worker that does not start. */
const noWorker = "data:text/javascript,throw%20new%20Error()";

describe("createEngine", () => {
  // biome-ignore format: a table, a line for each call
  const options: [title: string, code: Misuse<void>[1], says: RegExp, options: unknown][] = [
    ["null", "invalid-argument", /createEngine's options must be an object; got null/, null],
    ["an unknown option", "invalid-argument", /no option "thread"\. It has: backend, threads/, { thread: 2 }],
    ["an unknown backend", "invalid-argument", /backend must be one of.*"webgpu".*got "gpu"/, { backend: "gpu" }],
    ["no backend", "invalid-argument", /backend is an empty list; name at least one/, { backend: [] }],
    ["\"auto\" in a list", "invalid-argument", /of the list must be one of.*got "auto"/, { backend: ["wasm", "auto"] }],
    ["a negative number of threads", "invalid-argument", /threads.*"auto".*at least 0; got -1/, { threads: -1 }],
    ["half a thread", "invalid-argument", /threads.*got 0\.5/, { threads: 0.5 }],
    ["NaN threads", "invalid-argument", /threads.*got NaN/, { threads: Number.NaN }],
    ["endless threads", "invalid-argument", /threads.*got Infinity/, { threads: Infinity }],
    ["threads in words", "invalid-argument", /threads.*got "2"/, { threads: "2" }],
    ["more threads than cores", "invalid-argument", /threads is 257; the most is 256/, { threads: 257 }],
    ["threads null", "invalid-argument", /threads.*got null/, { threads: null }],
    ["an unknown SIMD", "invalid-argument", /simd must be one of.*"baseline".*got "avx"/, { simd: "avx" }],
    ["an unknown nonFinite", "invalid-argument", /nonFinite must be one of.*"reject".*got "ignore"/, { nonFinite: "ignore" }],
    ["onFallback true", "invalid-argument", /onFallback must be a function; got true/, { onFallback: true }],
    ["a GPU without adapters, by name", "backend-unavailable", /webgpu: .*no adapter.*driver/, { backend: "webgpu", gpu: noGpu, threads: 0 }],
    ["a GPU that throws, by name", "backend-unavailable", /webgpu: .*out of order/, { backend: ["webgpu"], threads: 0, gpu: { requestAdapter: () => Promise.reject(new Error("out of order")) } }],
    ["kernels that are none, by name", "backend-unavailable", /wasm: .*could not be compiled.*wasm-unsafe-eval/, { backend: "wasm", wasm: new Uint8Array([1, 2, 3]) }],
    ["a module that is something else's, by name", "backend-unavailable", /wasm: .*not linrec's kernels.*such as add.*linrec\/kernels\.wasm/, { backend: "wasm", wasm: importsF }],
    ["a module of nothing, by name", "backend-unavailable", /wasm: .*not linrec's kernels/, { backend: "wasm", wasm: importsF.subarray(0, 8) }],
    ["kernels that the server does not have, by name", "backend-unavailable", /wasm: .*HTTP 404/, { backend: "wasm", wasm: new Response("not found", { status: 404 }) }],
    ...[1, true, null, "kernels.wasm", {}, []].map((wasm) => ["kernels of no kind", "invalid-argument", /wasm must be a WebAssembly\.Module.*Response; got/, { wasm }] as [string, Misuse<void>[1], RegExp, unknown]),
    ...["relaxed", "baseline"].map((simd) => [`${simd} SIMD of given kernels`, "invalid-argument", /simd "\w+" chooses among linrec's own.*Leave one/, { simd, wasm: importsF }] as [string, Misuse<void>[1], RegExp, unknown]),
    ...[1, true, null, {}, []].map((workerUrl) => ["a worker that is no URL", "invalid-argument", /workerUrl must be a URL; got/, { workerUrl }] as [string, Misuse<void>[1], RegExp, unknown]),
    ...[1, true, "x", false].map((gpu) => ["a GPU that is none", "invalid-argument", /gpu must be an object; got/, { gpu }] as [string, Misuse<void>[1], RegExp, unknown]),
    ["a list", "invalid-argument", /createEngine's options must be an object; got Array/, []],
  ];

  test.each(options)("%s", async (_, code, says, given) => {
    expectLinrecError(await errorOf(() => createEngine(wrong(given))), code, says);
  });

  test("relaxed SIMD, by name, where there is none", async (context) => {
    if (builds.includes("relaxed")) context.skip("this runtime has relaxed SIMD");
    const error = await errorOf(() => createEngine({ simd: "relaxed" }));
    expectLinrecError(error, "backend-unavailable", /relaxed.*asked for.*Use simd "auto"/);
  });

  test("a list falls back and tells, a name does not", async () => {
    const told: unknown[] = [];
    const gpu = noGpu;
    const backend = ["webgpu", "wasm"] as const;
    const engine = await createEngine({ backend, gpu, threads: 0, onFallback: (event) => told.push(event) });
    expect(told).toEqual([{ from: "webgpu", to: "wasm", reason: engine.backends.webgpu.reason }]);
    expect(engine.backends.webgpu).toMatchObject({
      available: false,
      reason: expect.stringMatching(/no adapter/),
    });
    const lru = await engine.lru(initLru({ dModel: 2, dState: 2 }));
    const error = await errorOf(() => lru.forward(new Float32Array(4), { backend: "webgpu" }));
    expectLinrecError(error, "backend-unavailable", /webgpu.*no adapter/);
    await engine.dispose();
  });

  test('"auto" never rejects for want of a GPU, of WASM or of both, and tells that there are no kernels', async () => {
    const told: unknown[] = [];
    const engine = await createEngine({
      ...{ gpu: noGpu, wasm: new Uint8Array([1, 2, 3]), threads: 0 },
      onFallback: (event) => told.push(event),
    });
    expect(engine.backends.wasm).toMatchObject({
      available: false,
      reason: expect.stringMatching(/compiled/),
    });
    const lru = await engine.lru(initLru({ dModel: 2, dState: 2 }));
    expect(lru.backend).toBe("reference");
    const { y } = await lru.forward(Float32Array.of(1, 2));
    expectSameBits(lru.stepSync(Float32Array.of(1, 2), lru.allocateInferenceCache()), y, "step");
    expect(told).toEqual([{ from: "wasm", to: "reference", reason: engine.backends.wasm.reason }]);
    await engine.dispose();
  });

  test("an onFallback that throws stops what it was told of", async () => {
    const cause = new Error("mine");
    const onFallback = () => {
      throw cause;
    };
    const failed = await errorOf(() => createEngine({ backend: ["webgpu", "wasm"], gpu: noGpu, onFallback }));
    expectLinrecError(failed, "aborted", /onFallback threw mine/);
    expect((failed as Error).cause).toBe(cause);
    const engine = await createEngine({ backend: "wasm", threads: 2, workerUrl: noWorker, onFallback });
    const lru = await engine.lru(initLru({ dModel: 2, dState: 2 }));
    const error = await errorOf(() => lru.forward(new Float32Array(20_000)));
    expectLinrecError(error, "aborted", /onFallback threw mine/);
    expect((error as Error).cause).toBe(cause);
    await lru.forward(new Float32Array(20_000)); // it has been told
    await engine.dispose();
  });

  test("options that are changed later count for nothing", async () => {
    const told: string[] = [];
    const options: EngineOptions = {
      ...{ backend: "wasm", threads: 2, workerUrl: noWorker },
      onFallback: ({ reason }) => told.push(reason),
    };
    const creating = createEngine(options);
    options.threads = 0;
    const engine = await creating;
    options.onFallback = wrong("junk");
    const lru = await engine.lru(initLru({ dModel: 2, dState: 2 }));
    expect(engine.backends.wasm.threads).toBe(2);
    await lru.forward(new Float32Array(20_000));
    expect(told).toEqual([expect.stringMatching(/Worker threads could not be started/)]);
    await engine.dispose();
  });
});

describe("an engine", () => {
  let engine: Engine;
  let lru: Lru;
  let checkpoint: Uint8Array<ArrayBuffer>;
  beforeAll(async () => {
    engine = await createEngine({ backend: "wasm", threads: 0 });
    lru = await engine.lru(initLru({ dModel: 3, dState: 2 }));
    checkpoint = writeSafetensors((await loadGolden("ml_cls_03_last")).checkpoint);
  });
  afterAll(() => engine.dispose());

  const params = (change: Partial<Record<keyof LruParams, unknown>>) =>
    wrong({ ...initLru({ dModel: 3, dState: 2 }), ...change });

  // biome-ignore format: a table, a line for each call
  const calls: Misuse<void>[] = [
    ["lru(null)", "invalid-argument", /LruParams \(nuLog.*\) must be an object; got null/, () => engine.lru(wrong(null))],
    ["lru without D", "wrong-dtype", /D must be a Float32Array.*got undefined/, () => engine.lru(params({ D: undefined }))],
    ["lru in float64", "wrong-dtype", /BRe must be a Float32Array.*got Float64Array/, () => engine.lru(params({ BRe: new Float64Array(6) }))],
    ["lru, B of a wrong size", "shape-mismatch", /BIm has 5 values; \[dState, dModel\] needs 6/, () => engine.lru(params({ BIm: new Float32Array(5) }))],
    ["lru, theta twice", "invalid-argument", /both thetaLog and theta; give exactly one/, () => engine.lru(params({ theta: new Float32Array(2) }))],
    ["lru, a NaN", "non-finite", /CRe\[1\] is NaN; every parameter must be finite/, () => engine.lru(params({ CRe: Float32Array.of(0, Number.NaN, 0, 0, 0, 0) }))],
    ["lru, |lambda| = 1", "unstable", /nuLog\[1\] is -40.*must be above/, () => engine.lru(params({ nuLog: Float32Array.of(0, -40) }))],
    ["lru, detached", "detached", /D is detached/, () => engine.lru(params({ D: detached(new Float32Array(3)) }))],
    ["lru from rubbish", "malformed-file", /./, () => engine.lru(new Uint8Array(50))],
    ["lru from no URL", "load-failed", /not a URL|could not be loaded/, () => engine.lru("http://[")],
    ["model from rubbish", "malformed-file", /./, () => engine.model(new Uint8Array(50))],
    ["model from a number", "wrong-dtype", /number/, () => engine.model(wrong(42))],
    ["model from nothing", "wrong-dtype", /undefined/, () => engine.model(wrong(undefined))],
    ["model, an unknown architecture", "invalid-argument", /"mamba".*minimal-lru\/classification/, () => engine.model(checkpoint, wrong({ architecture: "mamba" }))],
    ["model, another architecture", "unknown-model", /./, () => engine.model(checkpoint, { architecture: "minimal-lru/sequence-layer" })],
    ["allocate(-1)", "invalid-argument", /length must be an integer of at least 0; got -1/, () => engine.allocate(-1)],
    ["allocate without a length", "invalid-argument", /length.*got undefined/, () => engine.allocate(wrong(undefined))],
    ["allocate more than there is", "out-of-memory", /[Mm]emory/, () => engine.allocate(2 ** 40)],
    ["free nothing", "wrong-dtype", /free takes.*allocate gave; got undefined/, () => engine.free(wrong(undefined))],
    ["free null", "wrong-dtype", /free takes.*got null/, () => engine.free(wrong(null))],
    ["toLruParams of null", "invalid-argument", /tensors must be a Map.*got null/, () => toLruParams(wrong(null))],
    ["toLruParams of bare arrays", "invalid-argument", /"nu_log" has dtype undefined/, () => toLruParams(wrong(new Map([["nu_log", new Float32Array(3)]])))],
    ["toLruParams of nothing", "invalid-argument", /"D" has dtype undefined/, () => toLruParams(wrong(new Map([["D", null]])))],
    ["toLruParams of an object", "invalid-argument", /tensors must be a Map.*got Object/, () => toLruParams(wrong({}))],
    ["toFloat32 of null", "wrong-dtype", /takes a tensor.*BF16; got null/, () => toFloat32(wrong(null))],
    ["toFloat32 of an object", "wrong-dtype", /takes a tensor.*got Object/, () => toFloat32(wrong({}))],
    ["toFloat32 without data", "wrong-dtype", /takes a tensor.*got Object/, () => toFloat32(wrong({ dtype: "F16", shape: [1] }))],
    ["explain an unknown verb", "invalid-argument", /verb must be one of "forward", "step"; got "train"/, () => engine.explain(wrong("train"), { dModel: 1, dState: 1 })],
    ["explain nothing", "invalid-argument", /problem must be an object; got undefined/, () => engine.explain("forward", wrong(undefined))],
    ["explain without dModel", "invalid-argument", /dModel must be an integer of at least 1; got undefined/, () => engine.explain("step", wrong({ dState: 1 }))],
    ["explain timesteps themselves", "invalid-argument", /integrationTimesteps must be one of true, false; got/, () => engine.explain("step", wrong({ dModel: 1, dState: 1, integrationTimesteps: new Float32Array(1) }))],
    ["explain a misspelt problem", "invalid-argument", /problem has no option "dmodel".*dModel/, () => engine.explain("step", wrong({ dmodel: 1 }))],
    ["a cache of -1 rows", "invalid-argument", /batch must be an integer of at least 0; got -1/, () => lru.allocateInferenceCache(-1)],
    ["a state from rubbish", "malformed-file", /./, () => lru.deserializeState(new Uint8Array(20))],
    ["a state from a checkpoint", "malformed-file", /no state file/, () => lru.deserializeState(checkpoint)],
    ["a state of null", "wrong-dtype", /null/, () => lru.deserializeState(wrong(null))],
    ["initLru without sizes", "invalid-argument", /dModel.*got undefined/, () => initLru(wrong({}))],
    ["initLru outside the disc", "invalid-argument", /rMax 1\.5/, () => initLru({ dModel: 1, dState: 1, rMax: 1.5 })],
  ];
  test.each(calls)("%s", async (_, code, says, call) => {
    expectLinrecError(await errorOf(() => call()), code, says);
  });

  test("a state of other parameters is foreign, even of the same sizes", async () => {
    const other = await engine.lru(initLru({ dModel: 3, dState: 2, seed: 1 }));
    const bytes = other.serializeState(other.allocateInferenceCache(2));
    const error = await errorOf(() => lru.deserializeState(bytes));
    expectLinrecError(error, "foreign-cache", /another model.*fingerprint.*fresh state/);
    const twin = await engine.lru(initLru({ dModel: 3, dState: 2 }));
    const mine = lru.serializeState(lru.allocateInferenceCache(2));
    expect(twin.deserializeState(mine).batch).toBe(2); // the same parameters
  });

  // biome-ignore format: as above
  const cacheCalls: Misuse<LruCache>[] = [
    ["set with too few values", "shape-mismatch", /re of layer 0 has 3 values; batch 2 x dState 2 needs 4/, (cache) => cache.set(new Float32Array(3), new Float32Array(4))],
    ["set with im missing", "wrong-dtype", /im of layer 0 must be a Float32Array; got undefined/, (cache) => cache.set(new Float32Array(4), wrong(undefined))],
    ["set in float64", "wrong-dtype", /re of layer 0.*got Float64Array/, (cache) => cache.set(wrong(new Float64Array(4)), new Float32Array(4))],
    ["reset of a row that is not there", "invalid-argument", /row 2 is to be reset.*from 0 to 1/, (cache) => cache.reset([0, 2])],
    ["reset of a negative row", "invalid-argument", /row to reset.*got -1/, (cache) => cache.reset([-1])],
  ];
  test.each(cacheCalls)("a cache: %s", async (_, code, says, call) => {
    const { state } = await lru.forward(floats(2 * 40 * 3, 1), { batch: 2 });
    const before = lru.serializeState(state);
    expectLinrecError(await errorOf(() => call(state)), code, says);
    expectSameBits(lru.serializeState(state), before, "the state");
  });

  test("a cache: reset of rows that an iterator gives once", async () => {
    const { state } = await lru.forward(floats(3 * 40 * 3, 1), { batch: 3 });
    state.reset(wrong([2, 0].values()));
    expect([...state.tokens]).toEqual([0, 40, 0]);
  });

  test("a model's cache takes two lists as it takes what get() gives", async () => {
    const { spec } = await loadGolden("ml_cls_03_last");
    const model = await engine.model(checkpoint, spec);
    const [one, two] = [model.allocateInferenceCache(), model.allocateInferenceCache()];
    const h = one.get().map(({ re, im }, i) => ({ re: floats(re.length, i), im: floats(im.length, i + 9) }));
    one.set(h);
    two.set(
      h.map(({ re }) => re),
      h.map(({ im }) => im),
    );
    expect(one.get()).toEqual(h);
    expectSameBits(model.serializeState(two), model.serializeState(one), "two lists");
  });

  test("a model's cache wants one h for each layer", async () => {
    const { spec } = await loadGolden("ml_cls_03_last");
    const model = await engine.model(checkpoint, spec);
    const cache = model.allocateInferenceCache();
    expectLinrecError(
      await errorOf(() => cache.set(cache.get().slice(1))),
      "shape-mismatch",
      /1 layers; this model has 2/,
    );
    expectLinrecError(
      await errorOf(() => cache.set([], [new Float32Array(8)])),
      "shape-mismatch",
      /re of 0 layers and im of 1/,
    );
  });

  test.each([[null], [42], [[null, null]], [[{}, {}]]])(
    "a model's cache.set(%j) is refused",
    async (layers) => {
      const { spec } = await loadGolden("ml_cls_03_last");
      const cache = (await engine.model(checkpoint, spec)).allocateInferenceCache();
      const error = await errorOf(() => cache.set(wrong(layers)));
      expect(isLinrecError(error), String(error)).toBe(true);
    },
  );
});

describe("what is disposed of", () => {
  const verbs = (lru: Lru, cache: LruCache): [string, () => unknown][] => [
    ["forward", () => lru.forward(new Float32Array(3))],
    ["step", () => lru.step(new Float32Array(3), cache)],
    ["stepSync", () => lru.stepSync(new Float32Array(3), cache)],
    ["allocateInferenceCache", () => lru.allocateInferenceCache()],
    ["serializeState", () => lru.serializeState(cache)],
    ["deserializeState", () => lru.deserializeState(new Uint8Array(0))],
  ];

  test("a layer", async () => {
    const engine = await createEngine({ backend: "wasm", threads: 0 });
    const lru = await engine.lru(initLru({ dModel: 3, dState: 2 }));
    const cache = lru.allocateInferenceCache();
    lru.dispose();
    lru.dispose();
    await lru[Symbol.asyncDispose]();
    for (const [, call] of verbs(lru, cache)) {
      expectLinrecError(await errorOf(call), "disposed", /has been disposed of\. Make a new one/);
    }
    expect((await engine.lru(initLru({ dModel: 3, dState: 2 }))).dState).toBe(2);
    await engine.dispose();
  });

  test("an engine", async () => {
    const engine = await createEngine({ backend: "wasm", threads: 0 });
    const lru = await engine.lru(initLru({ dModel: 3, dState: 2 }));
    const cache = lru.allocateInferenceCache();
    await engine.dispose();
    await engine.dispose();
    const own: [string, () => unknown][] = [
      ["lru", () => engine.lru(initLru({ dModel: 1, dState: 1 }))],
      ["model", () => engine.model(new Uint8Array(0))],
      ["allocate", () => engine.allocate(4)],
      ["explain", () => engine.explain("step", { dModel: 1, dState: 1 })],
      ["selfTest", () => engine.selfTest()],
    ];
    for (const [, call] of [...verbs(lru, cache), ...own]) {
      expectLinrecError(await errorOf(call), "disposed", /disposed of\. Make a new one with createEngine/);
    }
    lru.dispose();
  });
});

test("isLinrecError knows those of other copies of this library", () => {
  expect(isLinrecError(new LinrecError("timeout", "late"))).toBe(true);
  expect(isLinrecError(Object.assign(new Error("late"), { name: "LinrecError", code: "timeout" }))).toBe(
    true,
  );
  expect(isLinrecError(new Error("late"))).toBe(false);
  expect(isLinrecError({ name: "LinrecError", code: "timeout" })).toBe(false);
  expect(isLinrecError(undefined)).toBe(false);
});
