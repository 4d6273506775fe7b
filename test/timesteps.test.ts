/**
 * integrationTimesteps: lambda becomes lambda^Delta, token by token. Against the float64 reference, and with the same
 * bits however the sequence is cut, on any number of threads.
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { TileRunner } from "../src/cpu/tiles.js";
import { linearLimit } from "../src/engine/selfTest.js";
import { createEngine, type Engine, type Lru, writeSafetensors } from "../src/index.js";
import { programOf } from "../src/lruParams.js";
import { runReference } from "../src/reference.js";
import type { StateSlot } from "../src/state.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines, type NamedEngine } from "./support/engines.js";
import { loadGolden, relativeError } from "./support/golden.js";
import { randomClassifier } from "./support/lrnnx.js";
import { detached, errorOf, expectLinrecError, wrong } from "./support/misuse.js";
import { floats, hardParams, problem, random, sizes, timestepsOf } from "./support/problems.js";
import { cut, join, rows } from "./support/sequences.js";

describe.each(builds)("%s SIMD", (build) => {
  let engines: NamedEngine[] = [];
  let engine: Engine;

  beforeAll(async () => {
    engines = await createEngines(build, [0, 1, 2, 4], [0, 2]);
    engine = (engines[0] as NamedEngine).engine;
  });
  afterAll(() => Promise.all(engines.map((named) => named.engine.dispose())));

  /** Reads x in pieces at the given cuts, by steps or forwards, with timesteps or (where `plain` says so) without. */
  async function inPieces(
    lru: Lru,
    x: Float32Array,
    timesteps: Float32Array,
    batch: number,
    cuts: readonly number[],
    by: (piece: number) => { steps: boolean; plain: boolean },
  ) {
    const state = lru.allocateInferenceCache(batch);
    state.set(floats(batch * lru.dState, 3), floats(batch * lru.dState, 4));
    let cache = state;
    const pieces: Float32Array[] = [];
    for (let i = 0; i + 1 < cuts.length; i++) {
      const [from, to] = [cuts[i] as number, cuts[i + 1] as number];
      const { steps, plain } = by(i);
      const part = (a: number, b: number) => {
        const integrationTimesteps = plain ? undefined : cut(timesteps, batch, 1, a, b);
        return { x: cut(x, batch, lru.dModel, a, b), integrationTimesteps };
      };
      if (steps) {
        for (let t = from; t < to; t++) {
          const { x, ...options } = part(t, t + 1);
          pieces.push(lru.stepSync(x, cache, options));
        }
      } else {
        const { x, ...options } = part(from, to);
        const result = await lru.forward(x, { state: cache, ...options });
        pieces.push(result.y);
        cache = result.state;
      }
    }
    return { y: join(pieces, batch), state: cache };
  }

  test("lambda^Delta in float64", async () => {
    for (const seed of [1, 2, 3]) {
      const dState = 37;
      const params = hardParams(1, dState, seed);
      const lru = await engine.lru(params);
      for (const delta of [0, 1e-38, 1e-3, 0.1, 0.5, 1, 1.1, Math.PI, 47, 1000.3, 123456.7]) {
        const cache = lru.allocateInferenceCache();
        cache.set(new Float32Array(dState).fill(1), new Float32Array(dState));
        lru.stepSync(new Float32Array(1), cache, { integrationTimesteps: Float32Array.of(delta) });
        const { re, im } = cache.state.read(cache.state.layout.slots[0] as StateSlot, 0);
        const dt = Math.fround(delta);
        for (let n = 0; n < dState; n++) {
          const exponent = dt * Math.exp(params.nuLog[n] as number);
          const radius = Math.exp(-exponent);
          const angle = dt * ((params.theta as Float32Array)[n] as number);
          // What float64 makes of the angle and of the exponent is off by that much of them.
          const allowed = radius * (2 ** -50 + 2 ** -52 * (Math.abs(angle) + exponent)) + 4e-308;
          expect(Math.abs((re[n] as number) - radius * Math.cos(angle)), `re, ${delta}`).toBeLessThan(
            allowed,
          );
          expect(Math.abs((im[n] as number) - radius * Math.sin(angle)), `im, ${delta}`).toBeLessThan(
            allowed,
          );
        }
      }
      lru.dispose();
    }
  });

  // Fixed problems: where a few values cancel by chance, the limit is a matter of luck for any order of summing.
  test.each([0, 1, 2, 3, 4, 5, 6, 7])(
    "within the limit of a plain float32 recurrence; all 1 is the plain layer: %i",
    async (seed) => {
      for (const [dModel, dState, seqLen] of [
        [3, 8, 97],
        [8, 33, 293],
        [33, 9, 150],
      ] as const) {
        const batch = 2;
        const { params, x } = problem({ dModel, dState, batch, seqLen, seed, magnitude: 1 });
        const lru = await engine.lru(params);
        const program = programOf(params, "lru");
        const plain = runReference(program, { x, batch, seqLen }).y;
        const ones = new Float32Array(batch * seqLen).fill(1);
        for (const timesteps of [timestepsOf(batch * seqLen, seed), ones]) {
          const { y } = await lru.forward(x, { batch, integrationTimesteps: timesteps });
          const limit = linearLimit(params, x, batch, seqLen, undefined, timesteps);
          const expected = runReference(program, { x, batch, seqLen, timesteps }).y;
          expect(relativeError(y, timesteps === ones ? plain : expected)).toBeLessThanOrEqual(limit);
        }
        lru.dispose();
      }
    },
  );

  test("cut anywhere, by steps or forwards, with timesteps and without in turns: the same bits", async () => {
    const check = async (given: Parameters<typeof problem>[0], seed: number) => {
      const { params, x } = problem(given);
      const { batch, seqLen } = given;
      const lru = await engine.lru(params);
      const timesteps = timestepsOf(batch * seqLen, seed);
      const middle = seed % (seqLen + 1);
      const later = middle + ((seed >> 4) % (seqLen - middle + 1));
      const cuts = [0, middle, later, seqLen];
      const all = await inPieces(lru, x, timesteps, batch, [0, seqLen], () => ({
        steps: false,
        plain: false,
      }));
      for (const steps of [0b000, 0b111, 0b010]) {
        const other = await inPieces(lru, x, timesteps, batch, cuts, (i) => ({
          steps: ((steps >> i) & 1) === 1,
          plain: false,
        }));
        expectSameBits(other.y, all.y, `y, cuts ${cuts}, steps ${steps}`);
        expectSameState([lru, other.state], [lru, all.state], `state, cuts ${cuts}`);
      }
      const mixed = (steps: number) =>
        inPieces(lru, x, timesteps, batch, cuts, (i) => ({
          steps: ((steps >> i) & 1) === 1,
          plain: i !== 1,
        }));
      const [forwards, steps] = [await mixed(0), await mixed(7)];
      expectSameBits(steps.y, forwards.y, "y, plain in turns");
      expectSameState([lru, steps.state], [lru, forwards.state], "state, plain in turns");
      // The reference, in the same turns, for what mixing is to mean.
      const expected = timesteps.slice();
      for (let row = 0; row < batch; row++) {
        expected.fill(1, row * seqLen, row * seqLen + middle);
        expected.fill(1, row * seqLen + later, (row + 1) * seqLen);
      }
      const ones = await inPieces(lru, x, expected, batch, [0, seqLen], () => ({
        steps: false,
        plain: false,
      }));
      const share = relativeError(forwards.y, ones.y);
      expect(Number.isNaN(share) || share < 2e-4 || given.magnitude !== 1).toBe(true);
      lru.dispose();
    };
    await fc.assert(fc.asyncProperty(sizes, fc.nat(), check), { numRuns: 40 });
  });

  test.each([
    { dModel: 3, dState: 5, batch: 2, seqLen: 2203 },
    { dModel: 33, dState: 7, batch: 67, seqLen: 263 },
    { dModel: 70, dState: 130, batch: 1, seqLen: 700 },
  ])("any number of threads, any order of rows, ragged: %o", async (given) => {
    const { batch, seqLen, dModel } = given;
    const { params, x } = problem({ ...given, seed: 5, magnitude: 1 });
    const timesteps = timestepsOf(batch * seqLen, 8);
    const lengths = Array.from({ length: batch }, (_, row) => seqLen - ((7 * row) % seqLen));
    for (const [row, length] of lengths.entries())
      timesteps.fill(Number.NaN, row * seqLen + length, (row + 1) * seqLen);
    const results = await Promise.all(
      engines.map(async ({ name, engine }) => {
        const lru = await engine.lru(params);
        // The state to start from is inside a chunk.
        const { state } = await lru.forward(floats(batch * 5 * dModel, 9), { batch });
        return { name, lru, ...(await lru.forward(x, { state, lengths, integrationTimesteps: timesteps })) };
      }),
    );
    const first = results[0] as (typeof results)[number];
    for (const { name, lru, y, state } of results) {
      expectSameBits(y, first.y, `y, ${name}`);
      expectSameState([lru, state], [first.lru, first.state], `state, ${name}`);
    }
    const order = lengths.map((_, row) => (row + 1) % batch);
    const { y } = await first.lru.forward(rows(x, batch, order), {
      state: (await first.lru.forward(rows(floats(batch * 5 * dModel, 9), batch, order), { batch })).state,
      lengths: order.map((row) => lengths[row] as number),
      integrationTimesteps: rows(timesteps, batch, order),
    });
    expectSameBits(y, rows(first.y, batch, order), "y in another order");
    for (const { lru } of results) lru.dispose();
  });

  test("a row that has no token keeps its state, from inside a chunk", async () => {
    const given = { dModel: 3, dState: 5, batch: 3, seqLen: 53, seed: 6, magnitude: 1 };
    const { params, x } = problem(given);
    for (const { name, engine } of engines) {
      const lru = await engine.lru(params);
      const { state } = await lru.forward(x, { batch: 3 });
      const more = await lru.forward(floats(3 * 7 * 3, 2), {
        state,
        lengths: [0, 7, 0],
        integrationTimesteps: timestepsOf(3 * 7, 8),
      });
      for (const part of ["re", "im"] as const) {
        const [before, after] = [state, more.state].map((cache) => cache.get()[part]);
        for (const row of [0, 2])
          expectSameBits(
            (after as Float32Array).subarray(5 * row, 5 * row + 5),
            (before as Float32Array).subarray(5 * row, 5 * row + 5),
            `${part} of row ${row}, ${name}`,
          );
      }
      lru.dispose();
    }
  });

  test("workers with memories of their own scan a row's spans in turn, over resets and a pool", async () => {
    const { checkpoint, spec } = randomClassifier(6);
    const bytes = writeSafetensors(checkpoint);
    const [batch, seqLen] = [3, 40_000]; // several spans a row
    const timesteps = timestepsOf(batch * seqLen, 8);
    const next = random(2);
    const reset = Uint8Array.from({ length: batch * seqLen }, () => (next() < 1e-4 ? 1 : 0));
    const lengths = [seqLen, 17, 20_001];
    const commits = vi.spyOn(TileRunner.prototype, "commit");
    const read = async ({ name, engine }: NamedEngine) => {
      const [model, lru] = [await engine.model(bytes, spec), await engine.lru(hardParams(3, 5, 1))];
      const x = floats(batch * seqLen * model.inputWidth, 3);
      const u = floats(batch * seqLen * 3, 4);
      engine.explain("forward", { seqLen: 1, dModel: 1, dState: 1 }); // measures the machine, before anything is counted
      commits.mockClear();
      const pooled = await model.forward(x, { batch, lengths, reset, integrationTimesteps: timesteps });
      const every = 5;
      const tokens = await lru.forward(u, { batch, lengths, reset, every, integrationTimesteps: timesteps });
      const here = commits.mock.calls.length;
      return { name, model, lru, pooled, tokens, here };
    };
    const named = (name: string) => engines.find((other) => other.name === name) as NamedEngine;
    const alone = await read(named("0 threads, shared memory"));
    expect(alone.here).toBeGreaterThan(0);
    for (const name of ["2 threads, private memories", "2 threads, shared memory"]) {
      const other = await read(named(name));
      // In shared memory the calling thread takes part in what is as short as this.
      if (name.includes("private")) expect(other.here, `of ${name}, on the calling thread`).toBe(0);
      expectSameBits(other.pooled.y, alone.pooled.y, name);
      expectSameBits(other.tokens.y, alone.tokens.y, name);
      expectSameState([other.model, other.pooled.state], [alone.model, alone.pooled.state], name);
      expectSameState([other.lru, other.tokens.state], [alone.lru, alone.tokens.state], name);
    }
    commits.mockRestore();
  });

  test.each(["ml_cls_01_mean_prenorm", "ml_cls_03_last", "ml_seq_04_batchnorm_eval"])(
    "%s: a model, whole, in steps and on threads",
    async (name) => {
      const { checkpoint, spec, program, x, batch, seqLen } = await loadGolden(name);
      const timesteps = timestepsOf(batch * seqLen, 4);
      const options = { batch, integrationTimesteps: timesteps };
      const model = await engine.model(writeSafetensors(checkpoint), spec);
      const { y, state } = await model.forward(x, options);
      expect(relativeError(y, runReference(program, { x, batch, seqLen, timesteps }).y)).toBeLessThan(1e-5);
      const cache = model.allocateInferenceCache(batch);
      const steps: Float32Array[] = [];
      for (let t = 0; t < seqLen; t++) {
        const integrationTimesteps = cut(timesteps, batch, 1, t, t + 1);
        steps.push(
          model.stepSync(cut(x, batch, model.inputWidth, t, t + 1), cache, { integrationTimesteps }),
        );
      }
      const pooled = y.length < batch * seqLen * model.outputWidth;
      expectSameBits(pooled ? (steps.at(-1) as Float32Array) : join(steps, batch), y, "y of steps");
      expectSameState([model, cache], [model, state], "state of steps");
      for (const { name, engine } of engines.slice(1)) {
        const other = await engine.model(writeSafetensors(checkpoint), spec);
        const result = await other.forward(x, options);
        expectSameBits(result.y, y, name);
        expectSameState([other, result.state], [model, state], name);
        other.dispose();
      }
      model.dispose();
    },
  );
});

describe("misuse", () => {
  let engine: Engine;
  let lru: Lru;
  const x = floats(2 * 5 * 3, 1);
  beforeAll(async () => {
    engine = await createEngine({ backend: "wasm", threads: 0 });
    lru = await engine.lru(hardParams(3, 4, 1));
  });
  afterAll(() => engine.dispose());

  const withValue = (value: number) => new Float32Array(10).fill(value, 7, 8);
  test.each([
    ["shape-mismatch", /9 values; batch 2 x seqLen 5/, new Float32Array(9)],
    ["wrong-dtype", /must be a Float32Array/, wrong(new Float64Array(10))],
    ["wrong-dtype", /must be a Float32Array/, wrong([1, 2])],
    ["detached", /detached/, detached(new Float32Array(10))],
    ["invalid-argument", /\[7\] is NaN/, withValue(Number.NaN)],
    ["invalid-argument", /\[7\] is -0.5/, withValue(-0.5)],
    ["invalid-argument", /\[7\] is Infinity/, withValue(Number.POSITIVE_INFINITY)],
  ] as const)("%s: %s", async (code, says, integrationTimesteps) => {
    expectLinrecError(await errorOf(() => lru.forward(x, { batch: 2, integrationTimesteps })), code, says);
  });

  test("of a step, before the cache is touched", async () => {
    const cache = lru.allocateInferenceCache(2);
    const before = lru.serializeState(cache);
    const xt = floats(6, 2);
    for (const integrationTimesteps of [new Float32Array(3), Float32Array.of(1, -1)]) {
      expect(() => lru.stepSync(xt, cache, { integrationTimesteps })).toThrow(/integrationTimesteps/);
      await expect(lru.step(xt, cache, { integrationTimesteps })).rejects.toThrow(/integrationTimesteps/);
    }
    expect(() => lru.stepSync(xt, cache, wrong({ timesteps: new Float32Array(2) }))).toThrow(/no option/);
    expectSameBits(lru.serializeState(cache), before, "the cache");
  });
});
