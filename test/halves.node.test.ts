/**
 * Layers whose states come in conjugate pairs, or are real, run at half their cost by themselves, and nobody can tell: against the float64
 * reference of the whole layer on every backend, and every promise to the bit, from states that are conjugate and others.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ForwardJob, Runner } from "../src/backend.js";
import { Halved } from "../src/halves.js";
import { findHalves, type Halves, halvesOf } from "../src/hidden.js";
import {
  createEngine,
  type Engine,
  LinrecError,
  type Lru,
  type LruCache,
  type LruParams,
  mergeConjugates,
  type Tensor,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { fingerprint } from "../src/io/fingerprint.js";
import { buildProgram } from "../src/models/build.js";
import { fromLruParams, lruProgram } from "../src/models/lru.js";
import type { BackendName, Program } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { linearLimit } from "../src/selfTest.js";
import { State, type StateSlot, stateLayout } from "../src/state.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { apart, paired, real } from "./support/conjugates.js";
import { builds, createEngines, type NamedEngine, needBackend } from "./support/engines.js";
import { loadGolden, relativeError } from "./support/golden.js";
import { floats, hardParams } from "./support/problems.js";
import { cut, join, rows, stepThrough } from "./support/sequences.js";

/** Layers of 16 states; what stands apart is sorted out and put back. */
const kinds = {
  /** 2 x 7 in pairs, and two that have none, of which one is real. */
  pairs: (dModel: number): LruParams => {
    const alone = hardParams(dModel, 2, 9);
    (alone.theta as Float32Array)[1] = 0;
    return joined(paired(hardParams(dModel, 7, 1), "another C", apart), alone);
  },
  reals: (dModel: number) => real(hardParams(dModel, 16, 1)),
  /** 9 that are real, 2 of them the same; 2 x 3 in pairs; one that is neither. */
  both: (dModel: number) => {
    const nine = real(hardParams(dModel, 10, 4), 1);
    for (const name of ["nuLog", "gammaLog"] as const) nine[name][9] = nine[name][8] as number;
    nine.BRe.copyWithin(9 * dModel, 8 * dModel, 9 * dModel);
    return joined(nine, paired(hardParams(dModel, 3, 1), "another C", apart));
  },
} as const;

type Kind = keyof typeof kinds;
const layers = Object.keys(kinds) as Kind[];

/** The states of both, with the D of the second. */
function joined(a: LruParams, b: LruParams): LruParams {
  const both = (name: "nuLog" | "theta" | "gammaLog" | "BRe" | "BIm") =>
    Float32Array.from([...(a[name] as Float32Array), ...(b[name] as Float32Array)]);
  const [m, n] = [a.nuLog.length, b.nuLog.length];
  const columns = (name: "CRe" | "CIm") =>
    Float32Array.from({ length: b.D.length * (m + n) }, (_, i) => {
      const [o, at] = [Math.floor(i / (m + n)), i % (m + n)];
      return (at < m ? a[name][o * m + at] : b[name][o * n + at - m]) as number;
    });
  const B = { BRe: both("BRe"), BIm: both("BIm") };
  const C = { CRe: columns("CRe"), CIm: columns("CIm") };
  return { nuLog: both("nuLog"), theta: both("theta"), gammaLog: both("gammaLog"), ...B, ...C, D: b.D };
}

const layerOf = kinds.pairs;

const dState = 16;

/** Sets the last rows' states to anything, and the second row's to zeros but for one part of one state. */
function disturb(cache: LruCache): void {
  const [re, im] = [1, 2].map((seed) => floats(cache.batch * dState, seed)) as [Float32Array, Float32Array];
  re.fill(0, 0, 2 * dState);
  im.fill(0, 0, 2 * dState);
  if (cache.batch > 1) re[dState + 3] = 0.5;
  cache.set(re, im);
}

const starts = { zeros: () => undefined, "any states": disturb } as const;

describe.each(["reference", "wasm", "webgpu"] as const)("on %s", (backend: BackendName) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ backend: [backend, "reference"], threads: 0 });
  });
  afterAll(() => engine.dispose());

  test.for(
    layers.flatMap((layer) =>
      (["zeros", "any states"] as const).flatMap((start) =>
        (["plain", "timesteps", "resets"] as const).map((kind) => [layer, start, kind] as const),
      ),
    ),
  )("%s as the whole layer: from %s, %s", async ([layer, start, kind], context) => {
    needBackend(context, engine, backend);
    const [dModel, batch, seqLen, lengths] = [5, 3, 131, [131, 77, 120]];
    const params = kinds[layer](dModel);
    const x = floats(batch * seqLen * dModel, 11);
    const lru = await engine.lru(params);
    const cache = lru.allocateInferenceCache(batch);
    starts[start](cache);
    const timesteps = kind === "timesteps" ? floats(batch * seqLen, 6).map(Math.abs) : undefined;
    const reset = Array.from({ length: batch * seqLen }, (_, i) => i % 100 === 60);
    const options = {
      ...(timesteps && { integrationTimesteps: timesteps }),
      ...(kind === "resets" && { reset }),
    };
    const { y, state } = await lru.forward(x, { batch, lengths, state: cache, backend, ...options });

    const program = lruProgram(params);
    const given = new State(stateLayout(program), batch);
    const slot = given.layout.slots[0] as StateSlot;
    const before = cache.get();
    for (let row = 0; row < batch; row++) {
      const part = ({ re, im }: typeof before) =>
        [re, im].map((all) => all.subarray(row * dState, (row + 1) * dState)) as [Float32Array, Float32Array];
      given.write(slot, row, ...part(before));
    }
    const resets = Array.from({ length: batch }, (_, row) =>
      Int32Array.from([...Array(lengths[row]).keys()].filter((t) => t > 0 && reset[row * seqLen + t])),
    );
    const expected = runReference(program, {
      x,
      batch,
      seqLen,
      lengths,
      timesteps,
      state: given,
      ...(kind === "resets" && { resets }),
    });
    const limit = linearLimit(params, x, batch, seqLen, given, timesteps);
    expect(relativeError(y, expected.y)).toBeLessThanOrEqual(limit);
    const after = state.get();
    for (let row = 0; row < batch; row++) {
      const h = expected.state.read(slot, row);
      const at = (values: Float32Array) => values.subarray(row * dState, (row + 1) * dState);
      expect(relativeError([...at(after.re), ...at(after.im)], [...h.re, ...h.im])).toBeLessThan(1e-4);
    }
    lru.dispose();
  });
});

describe.each(builds.flatMap((build) => layers.map((layer) => [build, layer] as const)))(
  "bit for bit, %s SIMD, %s",
  (build, layer) => {
    let engines: NamedEngine[] = [];
    beforeAll(async () => {
      engines = await createEngines(build, [0, 2], [0, 2]);
    });
    afterAll(() => Promise.all(engines.map((named) => named.engine.dispose())));
    const first = () => (engines[0] as NamedEngine).engine;
    const [dModel, batch, seqLen, lengths] = [5, 4, 150, [150, 31, 96, 149]];
    const params = kinds[layer](dModel);
    const x = floats(batch * seqLen * dModel, 3);

    async function begin(engine: Engine, start: keyof typeof starts): Promise<[Lru, LruCache]> {
      const lru = await engine.lru(params);
      const cache = lru.allocateInferenceCache(batch);
      starts[start](cache);
      return [lru, cache];
    }

    describe.each(["zeros", "any states"] as const)("from %s", (start) => {
      test("steps, cuts and a file", async () => {
        const [lru, cache] = await begin(first(), start);
        const whole = await lru.forward(x, { state: cache });
        for (const at of [1, 47, 48, 100]) {
          const head = await lru.forward(cut(x, batch, dModel, 0, at), { state: cache });
          const state = lru.deserializeState(lru.serializeState(head.state));
          expectSameState([lru, state], [lru, head.state], "through a file");
          const tail = await lru.forward(cut(x, batch, dModel, at, seqLen), { state });
          expectSameBits(join([head.y, tail.y], batch), whole.y, `cut at ${at}`);
          expectSameState([lru, tail.state], [lru, whole.state], `cut at ${at}`);
        }
        const stepped = cache.clone();
        expectSameBits(join(stepThrough(lru, x, stepped), batch), whole.y, "steps");
        expectSameState([lru, stepped], [lru, whole.state], "steps");
        lru.dispose();
      });

      test("threads, memories, an order of rows, rows by themselves, resets", async () => {
        const reset = Array.from({ length: batch * seqLen }, (_, i) => i % 97 === 55);
        const [lru, cache] = await begin(first(), start);
        const options = { lengths, reset, state: cache };
        const whole = await lru.forward(x, options);
        for (const { name, engine } of engines) {
          const [other, from] = await begin(engine, start);
          const { y, state } = await other.forward(x, { ...options, state: from });
          expectSameBits(y, whole.y, name);
          expectSameState([other, state], [lru, whole.state], name);
          other.dispose();
        }
        const { re, im } = cache.get();
        for (const order of [[2, 0, 3, 1], [0], [1], [3]]) {
          const some = lru.allocateInferenceCache(order.length);
          some.set(rows(re, batch, order), rows(im, batch, order));
          const masks = order.flatMap((row) => reset.slice(row * seqLen, (row + 1) * seqLen));
          const { y } = await lru.forward(rows(x, batch, order), {
            state: some,
            lengths: order.map((row) => lengths[row] as number),
            reset: masks,
          });
          expectSameBits(y, rows(whole.y, batch, order), `rows ${order}`);
        }
        // What follows a reset is a sequence of its own.
        const at = [...Array(150).keys()].find((t) => t > 0 && reset[t]) as number;
        const next = [...Array(150).keys()].find((t) => t > at && reset[t]) as number;
        const alone = await lru.forward(x.slice(at * dModel, next * dModel));
        expectSameBits(whole.y.slice(at * dModel, next * dModel), alone.y, "after a reset");
        lru.dispose();
      });
    });
  },
);

describe.each(builds)(
  "an infinity in a real state stays out of the one that shares its complex number, %s SIMD",
  (simd) => {
    const [n, seqLen] = [5, 4];
    const zeros = new Float32Array(n);
    const layer = (B: number[]): LruParams => {
      const ones = new Float32Array(n).fill(1);
      const [nuLog, D] = [zeros.map((_, i) => i / 4), Float32Array.of(0)];
      const BRe = Float32Array.from(B);
      return { nuLog, theta: zeros, gammaLog: zeros, BRe, BIm: zeros, CRe: ones, CIm: zeros, D };
    };
    test.each([
      ["of x", [1, 1, 1, 1, 1], [1, Infinity, 1, 1], 0],
      ["of B x", [1e30, 1, 1, 1, 1e30], [1, 1e30, 1, 1], 0],
      ["that it starts with", [1, 1, 1, 1, 1], [1, 1, 1, 1], Infinity],
    ])("%s: steps = forward", async (_, B, values, start) => {
      const engine = await createEngine({ backend: "wasm", simd, threads: 0 });
      const lru = await engine.lru(layer(B));
      const x = Float32Array.from(values);
      const cache = () => {
        const made = lru.allocateInferenceCache();
        if (start > 0) made.set(Float32Array.of(start, 0, 0, 0, start), zeros);
        return made;
      };
      const whole = await lru.forward(x, { state: cache() });
      const { re, im } = whole.state.get();
      const program = lruProgram(layer(B));
      const given = new State(stateLayout(program), 1);
      const slot = given.layout.slots[0] as StateSlot;
      const first = cache().get();
      given.write(slot, 0, first.re, first.im);
      const expected = runReference(program, { x, batch: 1, seqLen, state: given }).state.read(slot, 0);
      for (const [i, value] of re.entries()) {
        const exact = Math.fround(expected.re[i] as number); // or NaN: the reference multiplies by imaginary parts of 0
        if (Number.isFinite(exact)) expect(value / exact).toBeCloseTo(1);
        else expect(value).toBe(Infinity);
      }
      expect(im).toEqual(zeros);
      if (x.every(Number.isFinite)) expect(whole.y.at(-1)).toBe(Infinity); // the sum of those, with no NaN in it

      const [stepped, many] = [cache(), cache()];
      const steps = Array.from(x, (value) => lru.stepSync(Float32Array.of(value), stepped));
      expect(join(steps, 1)).toEqual(whole.y); // NaN, too: their bits are not promised
      expectSameState([lru, stepped], [lru, whole.state], "steps");
      expect(await lru.stepMany(x, many)).toEqual(whole.y);
      expectSameState([lru, many], [lru, whole.state], "many steps");
      for (const at of [1, 2, 3]) {
        const head = await lru.forward(x.subarray(0, at), { state: cache() });
        const tail = await lru.forward(x.subarray(at), { state: head.state });
        expect(join([head.y, tail.y], 1)).toEqual(whole.y);
        expectSameState([lru, tail.state], [lru, whole.state], `cut at ${at}`);
      }
      await engine.dispose();
    });
  },
);

test("a whole layer that could not be made once, for want of memory, is tried again", async () => {
  const program = lruProgram(paired(hardParams(8, 4, 1), "the same"));
  await findHalves(program);
  const halves = halvesOf(program) as Halves;
  const runner = { forward: async () => {}, dispose() {} };
  let made = 0;
  const halved = new Halved<Runner>(halves, runner, async () => {
    if (++made === 1) throw new LinrecError("out-of-memory", "None left.");
    return runner;
  });
  const state = new State(stateLayout(halves.full), 1);
  for (const slot of state.layout.slots) state.carry(slot, 0).fill(1); // no conjugates
  const forward = () => halved.forward({ state, batch: 1 } as ForwardJob);
  await expect(forward()).rejects.toMatchObject({ code: "out-of-memory" });
  await forward();
  await forward();
  expect(made).toBe(2);
});

describe("what is seen of it", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ backend: "wasm", threads: 0 });
  });
  afterAll(() => engine.dispose());

  test("from zeros it is the merged layer to the bit: the others are not computed", async () => {
    const [dModel, batch] = [5, 4];
    const params = layerOf(dModel);
    const x = floats(batch * 150 * dModel, 3);
    const lru = await engine.lru(params);
    const merged = await engine.lru(mergeConjugates(params));
    expect(merged.dState).toBe(9);
    const [there, here] = [await merged.forward(x, { batch }), await lru.forward(x, { batch })];
    expectSameBits(here.y, there.y, "y");
    const costs = [lru, merged].map((layer) => layer.explain("forward", { seqLen: 1e5 }).candidates[0]?.ms);
    expect(costs[0]).toBe(costs[1]);
    lru.dispose();
    merged.dispose();
  });

  test("real states cost half of what others do, and stay real", async () => {
    const params = hardParams(5, 48, 1);
    for (const n of [0, 1]) (params.theta as Float32Array)[n] = 1; // neither a pair nor real
    const msOf = (lru: Lru) => lru.explain("forward", { seqLen: 1e5 }).candidates[0]?.ms as number;
    const [all, half] = [await engine.lru(real(params)), await engine.lru(hardParams(5, 24, 1))];
    expect(msOf(all)).toBe(msOf(half));
    const { state } = await all.forward(floats(500, 5));
    const { re, im } = state.get();
    expect(im.every((value) => value === 0)).toBe(true);
    expect(re.every((value) => value !== 0)).toBe(true);
    // Five in a layer of complex ones are not worth a part of their own.
    const few = await engine.lru(real(params, 43));
    expect(msOf(few)).toBe(msOf(await engine.lru(params)));
    for (const lru of [all, half, few]) lru.dispose();
  });

  test("dState, description, fingerprint and file are the whole layer's", async () => {
    const params = layerOf(5);
    const lru = await engine.lru(params);
    expect(lru.dState).toBe(dState);
    expect(lru.describe()).toMatch(/dState 16/);
    expect(lru.inspect().radius.length).toBe(dState);
    expect(lru.discretize().lambda.re.length).toBe(dState);
    expect(fingerprint(lru.program)).toBe(fingerprint(lruProgram(params)));
    expectSameBits(
      writeModel(lru),
      writeSafetensors(fromLruParams(params), { linrec: '{"architecture":"lrnnx/lru"}' }),
      "file",
    );
    lru.dispose();
  });

  test("a cache gives back what it was set to, and conjugates after a forward from zeros", async () => {
    const lru = await engine.lru(layerOf(5));
    const cache = lru.allocateInferenceCache(3);
    const [re, im] = [floats(3 * dState, 1), floats(3 * dState, 2)];
    cache.set(re, im);
    expect(cache.get()).toEqual({ re, im });
    const { state } = await lru.forward(floats(500, 5));
    const h = state.get();
    // Pairs stand apart: 0, 2, ... from the left, their conjugates from the right.
    for (let i = 0; i < 7; i++) {
      expect(h.re[13 - i]).toBe(h.re[i]);
      expect(h.im[13 - i]).toBe(-(h.im[i] as number));
      expect(h.im[i]).not.toBe(0);
    }
    // Set to these it goes on with them.
    const other = lru.allocateInferenceCache();
    other.set(h.re, h.im);
    const xt = floats(5, 8);
    expect(relativeError(lru.stepSync(xt, other), lru.stepSync(xt, state))).toBeLessThan(1e-6);
    lru.dispose();
  });

  test("the error bound holds, from any state", async () => {
    const params = layerOf(4);
    const lru = await engine.lru(params);
    const cache = lru.allocateInferenceCache(3);
    disturb(cache);
    const x = floats(3 * 60 * 4, 2);
    const bound = lru.errorBound(x, { state: cache });
    const { y } = await lru.forward(x, { state: cache });
    const program = lruProgram(params);
    const state = new State(stateLayout(program), 3);
    const { re, im } = cache.get();
    for (let row = 0; row < 3; row++) {
      const [from, to] = [row * dState, (row + 1) * dState];
      state.write(state.layout.slots[0] as StateSlot, row, re.subarray(from, to), im.subarray(from, to));
    }
    const exact = runReference(program, { x, batch: 3, seqLen: 60, state }).y;
    for (const [i, value] of y.entries())
      expect(Math.abs(value - (exact[i] as number))).toBeLessThanOrEqual(bound[i] as number);
    lru.dispose();
  });

  test("C whose sum is no float32 stay apart", async () => {
    const params = layerOf(2);
    for (const C of [params.CRe, params.CIm]) C.fill(3e38);
    const x = new Float32Array(2 * 20);
    x[0] = 1e-38;
    const lru = await engine.lru(params);
    const { y } = await lru.forward(x);
    const expected = runReference(lruProgram(params), { x, batch: 1, seqLen: 20 }).y;
    expect(relativeError(y, expected)).toBeLessThan(1e-4);
    lru.dispose();
  });

  test("a model: what follows the layer sees what it saw, from any state", async () => {
    const golden = await loadGolden("tf_res_01_default");
    const checkpoint = new Map(golden.checkpoint);
    // Every second state becomes the conjugate of the one before it.
    for (const [name, { dtype, shape, data }] of golden.checkpoint) {
      const own = name.slice(name.search(/[^./]*(:0)?$/)).replace(/:0$/, "");
      const axis = { lambda_nu: 0, lambda_theta: 0, gamma_log: 0, B_re: 1, B_im: 1 }[own];
      if (axis === undefined) continue;
      const negated = own === "lambda_theta" || own === "B_im";
      const size = shape[axis] as number;
      const values = (data as Float32Array).map((value, i) => {
        if ((i % size) % 2 === 0) return value;
        return (data[i - 1] as number) * (negated ? -1 : 1);
      });
      checkpoint.set(name, { dtype, shape, data: values } as Tensor);
    }
    const program = buildProgram(checkpoint, {}, golden.spec) as Program;
    const model = await engine.model(writeSafetensors(checkpoint), golden.spec);
    const { batch, seqLen, x } = golden;
    const cache = model.allocateInferenceCache(batch);
    const state = new State(stateLayout(program), batch);
    const slot = state.layout.slots[0] as StateSlot;
    for (const seed of [0, 1]) {
      const [re, im] = [1, 2].map((other) => floats(batch * slot.size, seed * other, seed));
      cache.set([{ re: re as Float32Array, im: im as Float32Array }]);
      for (let row = 0; row < batch; row++) {
        const [from, to] = [row * slot.size, (row + 1) * slot.size];
        state.write(slot, row, re?.subarray(from, to) ?? [], im?.subarray(from, to) ?? []);
      }
      const { y } = await model.forward(x, { state: cache });
      expect(relativeError(y, runReference(program, { x, batch, seqLen, state }).y)).toBeLessThan(1e-5);
    }
    model.dispose();
  });

  test.for(layers)(
    "%s: a state goes from the CPU to the GPU and back, and stays there for steps",
    async (layer, context) => {
      const both = await createEngine({ backend: ["wasm", "webgpu"] });
      const { available, reason } = both.backends.webgpu;
      if (!available) {
        await both.dispose();
        context.skip(reason);
      }
      const lru = await both.lru(kinds[layer](5));
      const x = floats(3 * 100 * 5, 2);
      for (const start of ["zeros", "any states"] as const) {
        const cache = lru.allocateInferenceCache(3);
        starts[start](cache);
        const whole = await lru.forward(x, { state: cache, backend: "wasm" });
        let state = cache;
        const parts: Float32Array[] = [];
        for (const [i, backend] of (["wasm", "webgpu", "wasm", "webgpu"] as const).entries()) {
          const part = await lru.forward(cut(x, 3, 5, 25 * i, 25 * (i + 1)), { state, backend });
          parts.push(part.y);
          state = part.state;
        }
        expect(relativeError(join(parts, 3), whole.y)).toBeLessThan(1e-5);
        const onGpu = await lru.allocateGpuCache(3);
        await onGpu.write(cache);
        const stepped: Float32Array[] = [];
        for (let t = 0; t < 5; t++) stepped.push(await lru.step(cut(x, 3, 5, t, t + 1), onGpu));
        expect(relativeError(join(stepped, 3), cut(whole.y, 3, 5, 0, 5))).toBeLessThan(1e-5);
        onGpu.dispose();
      }
      await both.dispose();
    },
  );
});
