/** Wrong calls of forward, step and stepSync: the right LinrecError, before any side effect. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEngine,
  type Engine,
  type ForwardOptions,
  type Lru,
  type LruCache,
  type Model,
  writeSafetensors,
} from "../src/index.js";
import { expectSameBits } from "./support/bits.js";
import { loadGolden } from "./support/golden.js";
import { detached, errorOf, expectLinrecError, type Misuse, wrong } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const [dModel, dState, batch, seqLen] = [4, 3, 2, 5];

interface Context {
  readonly engine: Engine;
  readonly lru: Lru;
  /** Another layer with the same parameters. */
  readonly other: Lru;
  readonly model: Model;
  /** Of `lru`, batch 2, with some tokens read. */
  readonly cache: LruCache;
  /** [2, 5, 4] */
  readonly x: Float32Array;
  /** [2, 4] */
  readonly xt: Float32Array;
  readonly out: Float32Array;
  readonly outT: Float32Array;
}

describe.each(["propagate", "reject"] as const)('nonFinite "%s"', (nonFinite) => {
  let context: Context;

  beforeAll(async () => {
    const engine = await createEngine({ backend: "wasm", threads: 0, nonFinite });
    const params = hardParams(dModel, dState, 1);
    const lru = await engine.lru(params);
    const golden = await loadGolden("ml_cls_01_mean_prenorm");
    const { state } = await lru.forward(floats(batch * 7 * dModel, 2), { batch });
    context = {
      engine,
      lru,
      other: await engine.lru(params),
      model: await engine.model(writeSafetensors(golden.checkpoint), golden.spec),
      cache: state,
      x: floats(batch * seqLen * dModel, 3),
      xt: floats(batch * dModel, 4),
      out: floats(batch * seqLen * dModel, 5),
      outT: floats(batch * dModel, 6),
    };
  });
  afterAll(() => context.engine.dispose());

  /** Runs a wrong call, and checks that it was refused and that nothing was changed by it. */
  async function refuses([, code, says, call]: Misuse<Context>): Promise<void> {
    const { lru, cache, x, xt, out, outT } = context;
    const before = [x, xt, out, outT].map((values) => values.slice());
    const state = lru.serializeState(cache);
    expectLinrecError(await errorOf(() => call(context)), code, says);
    for (const [i, values] of [x, xt, out, outT].entries()) {
      expectSameBits(values, before[i] as Float32Array, ["x", "xt", "out", "out of a step"][i] as string);
    }
    expectSameBits(lru.serializeState(cache), state, "the state that was passed in");
  }

  /** forward(x, ...) with some options, all else right. */
  const options =
    (given: unknown) =>
    ({ lru, x, out }: Context) =>
      lru.forward(x, { batch, out, ...(given as ForwardOptions<LruCache>) });

  // biome-ignore format: a table, a line for each call
  const forwards: Misuse<Context>[] = [
    ["x is missing", "wrong-dtype", /x must be a Float32Array; got undefined/, ({ lru }) => lru.forward(wrong(undefined))],
    ["x is an array", "wrong-dtype", /x must be a Float32Array; got Array\. Use/, ({ lru }) => lru.forward(wrong([1, 2, 3, 4]))],
    ["x is float64", "wrong-dtype", /got Float64Array\. Use Float32Array/, ({ lru }) => lru.forward(wrong(new Float64Array(4)))],
    ["x is a buffer", "wrong-dtype", /got ArrayBuffer/, ({ lru }) => lru.forward(wrong(new ArrayBuffer(16)))],
    ["x is a look-alike", "wrong-dtype", /Float32Array/, ({ lru }) => lru.forward(wrong({ length: 4, [Symbol.toStringTag]: "Float32Array" }))],
    ["x is detached", "detached", /x is detached.*copy/, ({ lru }) => lru.forward(detached(new Float32Array(8)))],
    ["x is no whole number of tokens", "shape-mismatch", /x has 41 values; batch 2 x seqLen x 4.*multiple of 8, such as 48.*Pass `batch`/, ({ lru }) => lru.forward(new Float32Array(41), { batch })],
    ["x does not fit the batch", "shape-mismatch", /x has 20 values.*batch 2.*multiple of 8/, ({ lru }) => lru.forward(new Float32Array(20), { batch })],
    ["x has values and batch is 0", "shape-mismatch", /x has 8 values; batch 0 needs 0/, ({ lru }) => lru.forward(new Float32Array(8), { batch: 0 })],
    ...[-1, 1.5, Number.NaN, Infinity, "2", null, 2 ** 60].map(
      (value): Misuse<Context> => [`batch is ${JSON.stringify(value)} (${value})`, "invalid-argument", /batch must be an integer of at least 0; got/, options({ batch: value })],
    ),
    ["options are null", "invalid-argument", /options must be an object; got null/, ({ lru, x }) => lru.forward(x, wrong(null))],
    ["options are a number", "invalid-argument", /options must be an object; got 2/, ({ lru, x }) => lru.forward(x, wrong(2))],
    ["an option is misspelt", "invalid-argument", /no option "bacth".*batch, state, lengths/, options({ bacth: 2 })],
    ["lengths are too few", "shape-mismatch", /lengths has 1 values; batch is 2/, options({ lengths: [5] })],
    ["lengths are too many", "shape-mismatch", /lengths has 3 values; batch is 2/, options({ lengths: [5, 5, 5] })],
    ["a length is negative", "invalid-argument", /lengths\[1\] is -1; it must be an integer from 0 to seqLen, 5/, options({ lengths: [5, -1] })],
    ["a length is beyond the sequence", "invalid-argument", /lengths\[0\] is 6.*seqLen, 5/, options({ lengths: [6, 5] })],
    ["a length is a fraction", "invalid-argument", /lengths\[0\] is 1\.5/, options({ lengths: [1.5, 5] })],
    ["a length is text", "invalid-argument", /lengths\[0\] is "5"/, options({ lengths: ["5", 5] })],
    ["lengths are a number", "invalid-argument", /lengths must be an array.*got 5/, options({ lengths: 5 })],
    ["lengths are null", "invalid-argument", /lengths must be an array.*got null/, options({ lengths: null })],
    ["transfer is text", "invalid-argument", /transfer must be one of true, false; got "x"/, options({ transfer: "x" })],
    ["the options are a Map", "invalid-argument", /forward's options must be an object; got Map/, ({ lru, x }) => lru.forward(x, wrong(new Map([["batch", 2]])))],
    ["the options are a list", "invalid-argument", /forward's options must be an object; got Array/, ({ lru, x }) => lru.forward(x, wrong([]))],
    ["the state is a proxy", "invalid-argument", /state must come from.*got.*itself, not a copy or a proxy.*markRaw/, (c) => options({ state: new Proxy(c.cache, {}) })(c)],
    ["the state is spread", "invalid-argument", /state must come from.*not a copy/, (c) => options({ state: { ...c.cache } })(c)],
    ["the state is made after a cache", "invalid-argument", /state must come from.*not a copy/, (c) => options({ state: Object.create(c.cache) })(c)],
    ["reset is too short", "shape-mismatch", /reset must be an array \[batch, seqLen\], 10 values; got Array of 9/, options({ reset: Array(9).fill(0) })],
    ["reset is a number", "shape-mismatch", /reset must be an array.*got 1/, options({ reset: 1 })],
    ["reset is null", "shape-mismatch", /reset must be an array.*got null/, options({ reset: null })],
    ["reset has text", "invalid-argument", /reset\[3\] is "yes"; it must be a number or a boolean/, options({ reset: [0, 0, 0, "yes", 0, 0, 0, 0, 0, 0] })],
    ["reset has a NaN", "invalid-argument", /reset\[0\] is NaN/, options({ reset: Array(10).fill(Number.NaN) })],
    ["every is 0", "invalid-argument", /every must be an integer of at least 1; got 0/, options({ every: 0 })],
    ["every is a fraction", "invalid-argument", /every must be an integer.*got 1\.5/, options({ every: 1.5 })],
    ["out has room for every output", "shape-mismatch", /out has 40 values; y has 16: batch 2 x 2 outputs x 4 features/, options({ every: 2 })],
    ["every of a pooling model", "unsupported", /every is 2.*pools over time.*one output for each row/, ({ model }) => model.forward(new Float32Array(2 * 3 * 2), { batch: 2, every: 2 })],
    ["the state is another layer's", "foreign-cache", /state belongs to another layer/, (c) => options({ state: c.other.allocateInferenceCache(batch) })(c)],
    ["the state is a model's", "foreign-cache", /state belongs to another layer/, (c) => options({ state: c.model.allocateInferenceCache(batch) })(c)],
    ["the state is null", "invalid-argument", /state must come from allocateInferenceCache or a forward; got null/, options({ state: null })],
    ["the state is an object", "invalid-argument", /state must come from.*got Object/, options({ state: { re: 1, im: 2 } })],
    ["the state is of another batch", "shape-mismatch", /state has 3 rows; batch is 2/, (c) => options({ state: c.lru.allocateInferenceCache(3) })(c)],
    ["out is too short", "shape-mismatch", /out has 39 values; y has 40/, options({ out: new Float32Array(39) })],
    ["out is too long", "shape-mismatch", /out has 41 values; y has 40/, options({ out: new Float32Array(41) })],
    ["out is float64", "wrong-dtype", /out must be a Float32Array; got Float64Array/, options({ out: new Float64Array(40) })],
    ["out is null", "wrong-dtype", /out must be a Float32Array; got null/, options({ out: null })],
    ["out is detached", "detached", /out is detached/, () => options({ out: detached(new Float32Array(40)) })(context)],
    ["out is x", "invalid-argument", /out and x overlap.*Use two arrays/, ({ lru, x }) => lru.forward(x, { batch, out: x })],
    ["out overlaps x", "invalid-argument", /out and x overlap/, ({ lru }) => {
      const both = new Float32Array(79);
      return lru.forward(both.subarray(0, 40), { batch, out: both.subarray(39) });
    }],
    ["the backend is unknown", "invalid-argument", /backend must be one of.*"webgpu".*got "cuda"/, options({ backend: "cuda" })],
    ["the backend is null", "invalid-argument", /backend must be one of.*got null/, options({ backend: null })],
    ["no backend is named", "invalid-argument", /empty list.*"auto"/, options({ backend: [] })],
    ["one backend of a list is unknown", "invalid-argument", /of the list must be one of.*got "gpu"/, options({ backend: ["wasm", "gpu"] })],
    ["the backend is not here", "backend-unavailable", /webgpu: .*not looked for.*"wasm"/, options({ backend: "webgpu" })],
    ["the signal is none", "invalid-argument", /signal must be an AbortSignal; got Object/, options({ signal: {} })],
    ["the signal cannot be left", "invalid-argument", /signal must be an AbortSignal; got Object/, options({ signal: { addEventListener() {} } })],
    ["the signal is null", "invalid-argument", /signal must be an AbortSignal; got null/, options({ signal: null })],
    ["onProgress is no function", "invalid-argument", /onProgress must be a function; got 3/, options({ onProgress: 3 })],
    ["a pooling model gets a row without tokens", "invalid-argument", /row 1 has no token.*pool.*at least one/, ({ model }) => model.forward(new Float32Array(2 * 3 * 2), { batch: 2, lengths: [3, 0] })],
    ["a pooling model gets no tokens", "invalid-argument", /no token.*pool/, ({ model }) => model.forward(new Float32Array(0), { batch: 2 })],
    ["a model's x is a layer's", "shape-mismatch", /x has 5 values.*2 features/, ({ model }) => model.forward(new Float32Array(5))],
  ];

  test.each(forwards)("forward: %s", async (...misuse) => {
    // Whatever is wrong, forward rejects: it never throws at its caller.
    const [title, code, says, call] = misuse;
    let threw = true;
    const watched = (c: Context) => {
      const promise = call(c);
      threw = false;
      return promise;
    };
    await refuses([title, code, says, watched]);
    expect(threw, "thrown, not rejected").toBe(false);
  });

  /** [title, code, says, the arguments] */
  // biome-ignore format: as above
  const steps: [string, Misuse<Context>[1], RegExp, (c: Context) => [unknown, unknown]][] = [
    ["xt is missing", "wrong-dtype", /xt must be a Float32Array; got undefined/, ({ cache }) => [undefined, cache]],
    ["xt is float64", "wrong-dtype", /xt must be a Float32Array; got Float64Array/, ({ cache }) => [new Float64Array(8), cache]],
    ["xt is detached", "detached", /xt is detached/, ({ cache }) => [detached(new Float32Array(8)), cache]],
    ["xt is too short", "shape-mismatch", /xt has 4 values.*2 streams x 4 features needs 8/, ({ cache }) => [new Float32Array(4), cache]],
    ["xt is too long", "shape-mismatch", /xt has 16 values.*needs 8/, ({ cache }) => [new Float32Array(16), cache]],
    ["there is no cache", "invalid-argument", /cache must come from allocateInferenceCache.*got undefined/, ({ xt }) => [xt, undefined]],
    ["the cache is an object", "invalid-argument", /cache must come from/, ({ xt }) => [xt, { batch: 2 }]],
    ["the cache is a proxy", "invalid-argument", /cache must come from.*not a copy or a proxy.*markRaw/, ({ xt, cache }) => [xt, new Proxy(cache, {})]],
    ["the cache is made after one", "invalid-argument", /cache must come from.*not a copy/, ({ xt, cache }) => [xt, Object.create(cache)]],
    ["the cache says whose it is", "invalid-argument", /cache must come from.*got Object/, ({ xt, lru }) => [xt, { owner: lru, batch: 2 }]],
    ["the cache is made up", "invalid-argument", /cache must come from.*got Object/, ({ xt, lru }) => [xt, { owner: lru, batch: 2, advance: () => "fake" }]],
    ["the cache is another layer's", "foreign-cache", /cache belongs to another/, ({ xt, other }) => [xt, other.allocateInferenceCache(2)]],
    ["the cache is a model's", "foreign-cache", /cache belongs to another/, ({ xt, model }) => [xt, model.allocateInferenceCache(2)]],
  ];

  test.each<[string, Misuse<Context>[1], RegExp, unknown]>([
    ["are a list", "wrong-dtype", /rows must be an Int32Array; got Array/, [0]],
    ["name one twice", "invalid-argument", /rows\[2\] is 1, as rows\[0\] is.*once/, Int32Array.of(1, 0, 1)],
    [
      "name one too many",
      "invalid-argument",
      /rows\[1\] is 2; the cache has 2: its rows are 0 to 1/,
      Int32Array.of(0, 2),
    ],
    ["are negative", "invalid-argument", /rows\[0\] is -1/, Int32Array.of(-1)],
    [
      "are not as many as xt has tokens",
      "shape-mismatch",
      /x.* has 8 values.*1 streams x 4/,
      Int32Array.of(1),
    ],
  ])("step, stepSync and stepMany: rows %s", async (title, code, says, rows) => {
    const options = { rows } as { rows: Int32Array };
    await refuses([title, code, says, ({ lru, xt, cache }) => lru.step(xt, cache, options)]);
    await refuses([title, code, says, async ({ lru, xt, cache }) => lru.stepSync(xt, cache, options)]);
    if (code === "shape-mismatch") return; // or it is two steps
    await refuses([title, code, says, ({ lru, xt, cache }) => lru.stepMany(xt, cache, options)]);
  });

  test.each(steps)("step and stepSync: %s", async (title, code, says, args) => {
    await refuses([title, code, says, (c) => c.lru.step(...(args(c) as [Float32Array, LruCache]))]);
    const throwing = (c: Context) => {
      const [xt, cache] = args(c) as [Float32Array, LruCache];
      expect(() => c.lru.stepSync(xt, cache)).toThrow(says); // at once, not as a promise
      c.lru.stepSync(xt, cache);
    };
    await refuses([title, code, says, throwing]);
  });

  // biome-ignore format: as above
  const outs: Misuse<Context>[] = [
    ["reset is too long", "shape-mismatch", /reset must be an array \[batch\], 2 values; got Array of 3/, ({ lru, xt, cache }) => lru.stepSync(xt, cache, { reset: [1, 0, 0] })],
    ["out is too short", "shape-mismatch", /out has 7 values; y has 8/, ({ lru, xt, cache }) => lru.stepSync(xt, cache, { out: new Float32Array(7) })],
    ["out is float64", "wrong-dtype", /out must be a Float32Array/, ({ lru, xt, cache }) => lru.stepSync(xt, cache, { out: wrong(new Float64Array(8)) })],
    ["out is detached", "detached", /out is detached/, ({ lru, xt, cache }) => lru.stepSync(xt, cache, { out: detached(new Float32Array(8)) })],
    ["out is xt", "invalid-argument", /overlap/, ({ lru, xt, cache }) => lru.stepSync(xt, cache, { out: xt })],
    ["out is null", "wrong-dtype", /out must be a Float32Array; got null/, ({ lru, xt, cache }) => lru.stepSync(xt, cache, { out: wrong(null) })],
  ];
  test.each(outs)("stepSync: %s", (...misuse) => refuses(misuse));

  test.each([5, null, {}])("rows to reset that are no list: %s", (rows) =>
    refuses([
      "reset",
      "invalid-argument",
      /reset\(\) takes a list of rows/,
      ({ cache }) => cache.reset(wrong(rows)),
    ]),
  );

  test("a cache that a step is advancing", async () => {
    const { lru, cache, x, xt } = context;
    const done = cache.whileLocked(async () => {
      const calls = [
        () => lru.stepSync(xt, cache),
        () => lru.step(xt, cache),
        () => lru.forward(x, { batch, state: cache }),
        () => lru.serializeState(cache),
        () => cache.clone(),
        () => cache.reset(),
        () => cache.set(new Float32Array(6), new Float32Array(6)),
      ];
      for (const call of calls) await refusesLocked(call);
    });
    await done;
    expect(lru.stepSync(xt, cache.clone())).toHaveLength(8); // free again
  });

  async function refusesLocked(call: () => unknown): Promise<void> {
    expectLinrecError(await errorOf(call), "cache-busy", /has not finished\. Await it/);
  }

  test.each([Number.NaN, Infinity, -Infinity])("%s in x", async (value) => {
    const { lru, cache } = context;
    const x = context.x.slice();
    x[17] = value;
    const xt = context.xt.slice();
    xt[3] = value;
    if (nonFinite === "propagate") {
      const { y } = await lru.forward(x, { batch });
      expect(y.some((v) => !Number.isFinite(v))).toBe(true);
      expect(lru.stepSync(xt, cache.clone()).some((v) => !Number.isFinite(v))).toBe(true);
      return;
    }
    const says = new RegExp(`x\\[17\\] is ${value}.*"reject".*"propagate"`);
    const forward = (c: Context) => c.lru.forward(x, { batch, out: c.out, state: c.cache });
    await refuses(["forward", "non-finite", says, forward]);
    const saysT = new RegExp(`xt\\[3\\] is ${value}.*"reject"`);
    await refuses(["stepSync", "non-finite", saysT, (c) => c.lru.stepSync(xt, c.cache, { out: c.outT })]);
    await refuses(["step", "non-finite", saysT, (c) => c.lru.step(xt, c.cache)]);
  });

  test("what lies past a row's length may be anything", async () => {
    const { lru, x } = context;
    const lengths = new Int32Array(batch).fill(seqLen);
    lengths[1] = seqLen - 1;
    const padded = x.slice();
    const end = 2 * seqLen * dModel;
    padded.fill(Number.NaN, end - dModel, end);
    const { y } = await lru.forward(padded, { batch, lengths });
    expectSameBits(y, (await lru.forward(x, { batch, lengths })).y, "y");
    if (nonFinite === "propagate") return;
    const before = end - dModel - 1;
    padded[before] = Infinity;
    const says = new RegExp(`x\\[${before}\\] is Infinity`);
    await refuses(["forward", "non-finite", says, (c) => c.lru.forward(padded, { batch, lengths })]);
  });

  test("arrays that only touch do not overlap", async () => {
    const { lru, x } = context;
    const both = new Float32Array(80);
    both.set(x, 40);
    const { y } = await lru.forward(both.subarray(40), { batch, out: both.subarray(0, 40) });
    expectSameBits(y, (await lru.forward(x, { batch })).y, "y");
  });
});
