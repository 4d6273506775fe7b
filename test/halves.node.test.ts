/**
 * Layers whose states come in conjugate pairs, or are real, run at half their cost by themselves, and nobody can tell: against the float64
 * reference of the whole layer on every backend, and every promise to the bit, from states that are conjugate and others.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { linearLimit } from "../src/engine/selfTest.js";
import { createEngine, type Engine, type Lru, type LruCache, type LruParams } from "../src/index.js";
import { lruProgram } from "../src/lruParams.js";
import type { BackendName } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { State, type StateSlot, stateLayout } from "../src/state.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { dState, kinds, layers, starts } from "./support/conjugates.js";
import { builds, createEngines, type NamedEngine, needBackend } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { floats } from "./support/problems.js";
import { cut, join, rows, stepThrough } from "./support/sequences.js";

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
