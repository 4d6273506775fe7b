/** `reset` and `every`: one forward = the forwards of its pieces, bit for bit on the CPU, and the reference's on every backend. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type BackendName,
  createEngine,
  type Engine,
  initLru,
  type Lru,
  type Model,
  writeSafetensors,
} from "../src/index.js";
import type { AnyCache } from "../src/layers/cache.js";
import { CHUNK } from "../src/state.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines, type NamedEngine } from "./support/engines.js";
import { goldenNames, loadGolden, relativeError } from "./support/golden.js";
import { randomClassifier } from "./support/lrnnx.js";
import { floats, hardParams, random } from "./support/problems.js";
import { cut, join, rows, stepThrough } from "./support/sequences.js";

/** A layer or a model, as far as both are the same. */
interface Layer {
  readonly inputWidth: number;
  readonly outputWidth: number;
  forward(x: Float32Array, options: object): Promise<{ readonly y: Float32Array; readonly state: AnyCache }>;
  stepSync(xt: Float32Array, cache: AnyCache, options?: object): Float32Array;
  allocateInferenceCache(batch?: number): AnyCache;
  serializeState(state: AnyCache): Uint8Array;
}

const asLayer = (layer: Lru | Model) => layer as unknown as Layer;

interface Setting {
  readonly batch: number;
  readonly seqLen: number;
  readonly lengths: number[];
  /** [batch, seqLen] */
  readonly reset: boolean[];
  readonly every: number;
  /** [batch, seqLen], of a few values */
  readonly times: Float32Array | undefined;
  /** Tokens that the state has read before. */
  readonly before: number;
  readonly seed: number;
}

/** Resets nowhere, here and there, or at every token; lengths around chunks, and past a tile. */
const settings = (most: number): fc.Arbitrary<Setting> =>
  fc
    .record({
      batch: fc.integer({ min: 1, max: 4 }),
      seqLen: fc.constantFrom(
        ...[1, 2, 5, CHUNK - 1, CHUNK, CHUNK + 1, 131, 300, 1500].filter((n) => n <= most),
      ),
      density: fc.constantFrom(0, 0.004, 0.02, 0.2, 1),
      ragged: fc.boolean(),
      every: fc.constantFrom(1, 1, 2, 3, 7, CHUNK, 100),
      before: fc.constantFrom(0, 1, CHUNK - 1, 70),
      timed: fc.constantFrom(false, false, true),
      seed: fc.nat(0xffff),
    })
    .map(({ batch, seqLen, density, ragged, timed, seed, ...rest }) => {
      const next = random(seed);
      const lengths = Array.from({ length: batch }, () =>
        ragged ? 1 + Math.floor(next() * seqLen) : seqLen,
      );
      const reset = Array.from({ length: batch * seqLen }, () => next() < density);
      const times = timed
        ? floats(batch * seqLen, seed + 3).map((t) => Math.round(4 * t + 4) / 4)
        : undefined;
      return { batch, seqLen, lengths, reset, times, seed, ...rest };
    });

/** A state that has read about `before` tokens: the rows read different numbers. */
async function stateOf(layer: Layer, { batch, before, seed }: Setting): Promise<AnyCache> {
  if (before === 0) return layer.allocateInferenceCache(batch);
  const lengths = Array.from({ length: batch }, (_, row) => Math.max(1, before - row));
  const x = floats(batch * before * layer.inputWidth, seed + 7);
  return (await layer.forward(x, { batch, lengths })).state;
}

/** What `forward` must give, by forwards without resets and the plain rule of which outputs are wanted. */
async function piecewise(layer: Layer, pooled: boolean, x: Float32Array, state: AnyCache, setting: Setting) {
  const { batch, seqLen, lengths, reset, every, times } = setting;
  const { inputWidth, outputWidth } = layer;
  const { tokens } = state;
  const outputs = pooled
    ? 1
    : Math.max(...Array.from(tokens, (t) => Math.floor((t + seqLen) / every) - Math.floor(t / every)));
  const y = new Float32Array(batch * outputs * outputWidth);
  const final: AnyCache[] = [];
  for (let row = 0; row < batch; row++) {
    const length = lengths[row] as number;
    const own = rows(x, batch, [row]);
    let count = tokens[row] as number;
    let at = row * outputs * outputWidth;
    let cache = rowOf(layer, state, row);
    for (let start = 0; start < length; ) {
      if (reset[row * seqLen + start]) {
        cache = layer.allocateInferenceCache(1);
        count = 0;
      }
      let end = start + 1;
      while (end < length && !reset[row * seqLen + end]) end++;
      const integrationTimesteps = times && cut(rows(times, batch, [row]), 1, 1, start, end);
      const piece = await layer.forward(cut(own, 1, inputWidth, start, end), {
        state: cache,
        integrationTimesteps,
      });
      cache = piece.state;
      if (pooled) y.set(piece.y, at);
      for (let t = start; t < end && !pooled; t++) {
        if (++count % every !== 0) continue;
        y.set(piece.y.subarray((t - start) * outputWidth, (t - start + 1) * outputWidth), at);
        at += outputWidth;
      }
      start = end;
    }
    final.push(cache);
  }
  return { y, final };
}

/** One row of a state, to its last bit. */
function rowOf(layer: Layer, cache: AnyCache, row: number): AnyCache {
  const copy = layer.allocateInferenceCache(1);
  const { rowBytes } = cache.state.layout;
  copy.state.bytes.set(cache.state.bytes.subarray(row * rowBytes, (row + 1) * rowBytes));
  copy.state.k[0] = cache.state.k[row] as number;
  copy.state.count[0] = cache.state.count[row] as number;
  return copy;
}

async function checkForward(
  layer: Layer,
  pooled: boolean,
  others: readonly { name: string; layer: Layer; engine: Engine }[],
  given: Setting,
): Promise<void> {
  const setting = pooled ? { ...given, every: 1 } : given;
  const { batch, seqLen, lengths, reset, every, times, seed } = setting;
  const x = floats(batch * seqLen * layer.inputWidth, seed + 1);
  const before = await stateOf(layer, setting);
  const expected = await piecewise(layer, pooled, x, before, setting);
  for (const other of others) {
    const state = await stateOf(other.layer, setting);
    const options = { batch, lengths, reset, every, state, integrationTimesteps: times };
    const actual = await other.layer.forward(x, options);
    expectSameBits(actual.y, expected.y, `y, ${other.name}`);
    for (const [row, cache] of expected.final.entries()) {
      expectSameState([layer, rowOf(layer, actual.state, row)], [layer, cache], `row ${row}, ${other.name}`);
    }
    // In the engine's own memory, and what comes in stays as it is.
    const mine = other.engine.allocate(x.length);
    mine.set(x);
    const out = other.engine.allocate(expected.y.length).fill(7);
    await other.layer.forward(mine, { ...options, out });
    expectSameBits(out, expected.y, `out, ${other.name}`);
    expectSameBits(mine, x, `x, ${other.name}`);
    other.engine.free(mine);
    other.engine.free(out);
    expectSameState([other.layer, state], [layer, before], `the initial state, ${other.name}`);
  }
}

describe.each(builds)("%s SIMD", (build) => {
  let engines: NamedEngine[] = [];
  beforeAll(async () => {
    engines = await createEngines(build, [0, 2], [2]);
  });
  afterAll(() => Promise.all(engines.map(({ engine }) => engine.dispose())));

  test("a layer: one forward = the forwards of its pieces", async () => {
    const check = async (dModel: number, dState: number, setting: Setting) => {
      const params = hardParams(dModel, dState, setting.seed);
      const layers = await Promise.all(
        engines.map(async ({ name, engine }) => ({ name, engine, layer: asLayer(await engine.lru(params)) })),
      );
      await checkForward((layers[0] as (typeof layers)[0]).layer, false, layers, setting);
    };
    const width = fc.constantFrom(1, 3, 4, 9);
    await fc.assert(fc.asyncProperty(width, width, settings(1500), check), { numRuns: 40 });
  });

  // A tile has 48 tokens at these widths, a block 64 rows, a window 4 MiB.
  test.each([
    { dModel: 256, dState: 256, batch: 2, seqLen: 500 },
    { dModel: 600, dState: 2, batch: 1, seqLen: 3000 },
    { dModel: 2, dState: 3, batch: 67, seqLen: 200 },
  ])("more than a tile, a window, a block: %o", async ({ dModel, dState, batch, seqLen }) => {
    const next = random(seqLen);
    const reset = Array.from({ length: batch * seqLen }, () => next() < 0.01);
    const lengths = Array.from({ length: batch }, (_, row) => seqLen - (row % 7));
    const params = hardParams(dModel, dState, 3);
    const layers = await Promise.all(
      engines.map(async ({ name, engine }) => ({ name, engine, layer: asLayer(await engine.lru(params)) })),
    );
    for (const every of [1, 5]) {
      const setting = { batch, seqLen, lengths, reset, every, times: undefined, before: 20, seed: 1 };
      await checkForward((layers[0] as (typeof layers)[0]).layer, false, layers, setting);
    }
  });

  const maximum = "lrnnx/classifier that takes the maximum";
  describe.each([...goldenNames.filter((name) => name.startsWith("ml_")), maximum])("%s", (name) => {
    test("one forward = the forwards of its pieces", async () => {
      const { checkpoint, spec } = name === maximum ? randomClassifier(6) : await loadGolden(name);
      if (name === maximum) expect(spec).toMatchObject({ pooling: "max", intermediatePooling: "none" });
      const bytes = writeSafetensors(checkpoint, { linrec: JSON.stringify(spec) });
      const models = await Promise.all(
        engines.map(async ({ name, engine }) => ({ name, engine, model: await engine.model(bytes) })),
      );
      const pooled = models[0]?.model.stages.some(({ kind }) => kind === "pool") ?? false;
      const layers = models.map(({ model, ...rest }) => ({ ...rest, layer: asLayer(model) }));
      const check = (setting: Setting) =>
        checkForward((layers[0] as (typeof layers)[0]).layer, pooled, layers, setting);
      await fc.assert(fc.asyncProperty(settings(300), check), { numRuns: 12 });
    });
  });

  test("cut anywhere, by forwards and by steps: the same outputs, the same state", async () => {
    const layer = asLayer(await (engines[0] as NamedEngine).engine.lru(hardParams(3, 5, 1)));
    const check = async (setting: Setting, at: number) => {
      const { batch, seqLen, reset, every, times } = setting;
      const x = floats(batch * seqLen * 3, setting.seed);
      const start = layer.allocateInferenceCache(batch);
      const whole = await layer.forward(x, { batch, reset, every, integrationTimesteps: times });
      const middle = at % (seqLen + 1);
      const mask = (from: number, to: number) => cut(Float32Array.from(reset, Number), batch, 1, from, to);
      const part = (from: number, to: number) => {
        const integrationTimesteps = times && cut(times, batch, 1, from, to);
        return [
          cut(x, batch, 3, from, to),
          { batch, reset: mask(from, to), every, integrationTimesteps },
        ] as const;
      };
      const first = await layer.forward(...part(0, middle));
      const [rest, options] = part(middle, seqLen);
      const second = await layer.forward(rest, { ...options, state: first.state });
      expectSameState([layer, second.state], [layer, whole.state], "state");
      // Rows with resets differ in how many outputs each part gives: count them.
      const counts = (tokens: ArrayLike<number>, from: number, to: number) =>
        Array.from({ length: batch }, (_, row) => {
          let [count, outputs] = [tokens[row] as number, 0];
          for (let t = from; t < to; t++) {
            if (reset[row * seqLen + t]) count = 0;
            if (++count % every === 0) outputs++;
          }
          return outputs;
        });
      const [n1, n2] = [counts(start.tokens, 0, middle), counts(first.state.tokens, middle, seqLen)];
      const given = ({ y }: { y: Float32Array }, row: number, outputs: number) =>
        rows(y, batch, [row]).subarray(0, 3 * outputs);
      const cache = layer.allocateInferenceCache(batch);
      const stepped = Array.from({ length: seqLen }, (_, t) => {
        const [xt, { reset, integrationTimesteps }] = part(t, t + 1);
        return [layer.stepSync(xt, cache, { reset, integrationTimesteps }), cache.tokens] as const;
      });
      for (let row = 0; row < batch; row++) {
        const [a, b] = [n1[row] as number, n2[row] as number];
        const parts = [given(first, row, a), given(second, row, b)];
        expectSameBits(join(parts, 1), given(whole, row, a + b), `row ${row} cut at ${middle}`);
        const steps = stepped.filter((step) => (step[1][row] as number) % every === 0);
        const ys = steps.map((step) => rows(step[0], batch, [row]));
        expectSameBits(join(ys, 1), given(whole, row, a + b), `row ${row} by steps`);
      }
      expectSameState([layer, cache], [layer, whole.state], "state by steps");
    };
    await fc.assert(fc.asyncProperty(settings(300), fc.nat(), check), { numRuns: 30 });
  });

  test("a stream cut anywhere gives the outputs of one call", async () => {
    const layer = asLayer(await (engines[0] as NamedEngine).engine.lru(hardParams(2, 3, 1)));
    const x = floats(2 * 100 * 2, 3);
    const whole = (await layer.forward(x, { batch: 2, every: 7 })).y;
    expect(whole.length).toBe(2 * 14 * 2);
    for (const at of [1, 6, 7, 8, 50, 99]) {
      const first = await layer.forward(cut(x, 2, 2, 0, at), { batch: 2, every: 7 });
      expect([...first.state.tokens]).toEqual([at, at]);
      const second = await layer.forward(cut(x, 2, 2, at, 100), { state: first.state, every: 7 });
      expectSameBits(join([first.y, second.y], 2), whole, `cut at ${at}`);
    }
    expect(stepThrough(layer, cut(x, 2, 2, 0, 1), layer.allocateInferenceCache(2))).toHaveLength(1);
  });
});

describe.each(["reference", "wasm", "webgpu"] as BackendName[])("%s against the reference", (backend) => {
  let engine: Engine;
  let oracle: Engine;
  let reason: string | undefined;
  beforeAll(async () => {
    oracle = await createEngine({ backend: "reference" });
    engine = await createEngine({ backend: [backend, "reference"] });
    const status = engine.backends[backend];
    if (!status.available) reason = status.reason;
  });
  afterAll(() => Promise.all([engine.dispose(), oracle.dispose()]));

  // A software adapter takes its time over many layers.
  const isFit = (name: string) =>
    name.startsWith("ml_") && (backend !== "webgpu" || !name.includes("6layers"));
  const cases = ["a bare layer", ...goldenNames.filter(isFit)];
  test.for(cases)("%s", async (name, context) => {
    if (reason) return context.skip(reason);
    const open = async (host: Engine) => {
      if (name === "a bare layer")
        return { layer: asLayer(await host.lru(hardParams(5, 9, 4))), pooled: false };
      const { checkpoint, spec } = await loadGolden(name);
      const model = await host.model(writeSafetensors(checkpoint, { linrec: JSON.stringify(spec) }));
      return { layer: asLayer(model), pooled: model.stages.some(({ kind }) => kind === "pool") };
    };
    const [own, theirs] = [await open(engine), await open(oracle)];
    const bound = backend === "webgpu" ? 5e-5 : 1e-5;
    const check = async (given: Setting) => {
      const { batch, seqLen, lengths, reset, seed, ...setting } = {
        ...given,
        every: own.pooled ? 1 : given.every,
      };
      const x = floats(batch * seqLen * own.layer.inputWidth, seed + 1);
      const all = { batch, seqLen, lengths, reset, seed, ...setting };
      const before = await stateOf(theirs.layer, all);
      const expected = await piecewise(theirs.layer, own.pooled, x, before, all);
      const options = { batch, lengths, reset, every: all.every, integrationTimesteps: all.times, backend };
      const actual = await own.layer.forward(x, { ...options, state: await stateOf(own.layer, all) });
      expect(relativeError(actual.y, expected.y)).toBeLessThan(bound);
      for (const [row, cache] of expected.final.entries()) {
        expect(actual.state.tokens[row]).toBe(cache.tokens[0]);
        const [a, b] = [rowOf(own.layer, actual.state, row), cache].map((one) => [one.get()].flat());
        for (const [i, h] of (b ?? []).entries()) {
          const scale = Math.max(1, ...h.re.map(Math.abs), ...h.im.map(Math.abs));
          for (const part of ["re", "im"] as const) {
            for (const [n, value] of h[part].entries())
              expect(Math.abs((a?.[i]?.[part][n] as number) - value)).toBeLessThan(bound * scale);
          }
        }
      }
    };
    await fc.assert(fc.asyncProperty(settings(131), check), { numRuns: backend === "wasm" ? 15 : 5 });
  });
});

// What comes into a chunk is found out in groups of chunks, and the groups' groups: a reset stops it at each level.
test.for([
  ["groups of several chunks", 131 * CHUNK + 5],
  ["more groups than are scanned at a time", 4100 * CHUNK + 5],
] as const)("webgpu, %s", async ([, seqLen], context) => {
  const [engine, oracle] = await Promise.all([
    createEngine({ backend: ["webgpu", "reference"] }),
    createEngine({ backend: "reference" }),
  ]);
  try {
    if (!engine.backends.webgpu.available) return context.skip(engine.backends.webgpu.reason);
    const parameters = initLru({ dModel: 1, dState: 2, rMin: 0.9999, rMax: 0.99999, seed: 4 }); // remembers many chunks
    const x = floats(seqLen, 1);
    const reset = new Uint8Array(seqLen);
    for (const token of [CHUNK, 40 * CHUNK + 3, 99 * CHUNK + 1, seqLen - 40]) reset[token] = 1;
    const run = async (host: Engine) => (await host.lru(parameters)).forward(x, { reset });
    const [actual, expected] = await Promise.all([run(engine), run(oracle)]);
    expect(relativeError(actual.y, expected.y)).toBeLessThan(5e-6);
  } finally {
    await Promise.all([engine.dispose(), oracle.dispose()]);
  }
});
