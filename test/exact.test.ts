/**
 * The CPU gives the same bits however a sequence is read: step by step or whole, cut anywhere,
 * alone or in a batch, on any number of threads, with shared memory or without, before and after a state was saved.
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Engine, Lru } from "../src/index.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines, type NamedEngine } from "./support/engines.js";
import { floats, hardParams, problem, type Sizes, sizes } from "./support/problems.js";
import { cut, join, rows, stepThrough } from "./support/sequences.js";

describe.each(builds)("%s SIMD", (build) => {
  let engines: NamedEngine[] = [];
  /** Calling thread only. */
  let engine: Engine;

  beforeAll(async () => {
    engines = await createEngines(build, [0, 1, 2, 3, 4, 8], [0, 1, 2, 3]);
    engine = (engines[0] as NamedEngine).engine;
  });
  afterAll(() => Promise.all(engines.map((named) => named.engine.dispose())));

  /** Checks a property of one layer on the calling thread. */
  async function checkLayer(
    numRuns: number,
    property: (lru: Lru, x: Float32Array, given: Sizes, random: number) => Promise<void>,
  ): Promise<void> {
    const check = async (given: Sizes, random: number) => {
      const { params, x } = problem(given);
      const lru = await engine.lru(params);
      await property(lru, x, given, random);
      lru.dispose();
    };
    await fc.assert(fc.asyncProperty(sizes, fc.nat(), check), { numRuns });
  }

  test("the engines are what their names say", () => {
    for (const { name, engine } of engines) {
      expect(engine.backends.wasm.available, name).toBe(true);
      const { candidates } = engine.explain("forward", { dModel: 8, dState: 8, seqLen: 100 });
      const usable = candidates.filter(({ backend, available }) => backend === "wasm" && available);
      expect(
        usable.map(({ threads }) => threads),
        name,
      ).toEqual([Number.parseInt(name, 10)]);
    }
  });

  test("step after step = forward", async () => {
    await checkLayer(60, async (lru, x, { batch }) => {
      const { y, state } = await lru.forward(x, { batch });
      const cache = lru.allocateInferenceCache(batch);
      expectSameBits(join(stepThrough(lru, x, cache), batch), y, "y");
      expectSameState([lru, cache], [lru, state], "state");
    });
  });

  test("forward(a then b) = forward(a), then forward(b) from its state, wherever the cut is", async () => {
    await checkLayer(60, async (lru, x, { batch, seqLen, dModel }, random) => {
      const at = random % (seqLen + 1);
      const { y, state } = await lru.forward(x, { batch });
      const first = await lru.forward(cut(x, batch, dModel, 0, at), { batch });
      const middle = lru.serializeState(first.state);
      const second = await lru.forward(cut(x, batch, dModel, at, seqLen), { batch, state: first.state });
      expectSameBits(join([first.y, second.y], batch), y, `y, cut at ${at}`);
      expectSameState([lru, second.state], [lru, state], `state, cut at ${at}`);
      expectSameBits(lru.serializeState(first.state), middle, "the state that was passed in");
    });
  });

  test("from a state that was set, and in many pieces", async () => {
    await checkLayer(20, async (lru, x, { batch, seqLen, dModel, dState }, random) => {
      const start = lru.allocateInferenceCache(batch);
      start.set(floats(batch * dState, random), floats(batch * dState, random + 1));
      const { y, state } = await lru.forward(x, { batch, state: start });
      const pieces: Float32Array[] = [];
      let at = 0;
      let cache = start.clone();
      for (let i = 0; at < seqLen; i++) {
        const end = Math.min(seqLen, at + 1 + ((random >> (i % 5)) % 40));
        const piece = cut(x, batch, dModel, at, end);
        if (i % 2 === 0) {
          const result = await lru.forward(piece, { batch, state: cache });
          pieces.push(result.y);
          cache = result.state;
        } else {
          pieces.push(join(stepThrough(lru, piece, cache), batch));
        }
        at = end;
      }
      expectSameBits(join(pieces, batch), y, "y");
      expectSameState([lru, cache], [lru, state], "state");
    });
  });

  /** Runs the same forward on every engine. */
  async function checkEngines(given: Sizes, random: number): Promise<void> {
    const { params, x } = problem(given);
    const { batch, seqLen, dState } = given;
    const lengths = Array.from({ length: batch }, (_, row) => seqLen - ((random >> row) % 3) * (seqLen >> 2));
    const [first, ...others] = await Promise.all(
      engines.map(async ({ name, engine }) => {
        const lru = await engine.lru(params);
        const start = lru.allocateInferenceCache(batch);
        start.set(floats(batch * dState, random), floats(batch * dState, random + 1));
        // The second forward starts inside a chunk.
        const whole = await lru.forward(x, { batch, state: start });
        const ragged = await lru.forward(x, { batch, lengths, state: whole.state });
        return { name, lru, whole, ragged };
      }),
    );
    if (!first) throw new Error("no engines");
    for (const { name, lru, whole, ragged } of others) {
      expectSameBits(whole.y, first.whole.y, `y, ${name}`);
      expectSameState([lru, whole.state], [first.lru, first.whole.state], `state, ${name}`);
      expectSameBits(ragged.y, first.ragged.y, `y of a ragged batch, ${name}`);
      expectSameState([lru, ragged.state], [first.lru, first.ragged.state], `its state, ${name}`);
      lru.dispose();
    }
    first.lru.dispose();
  }

  test("any number of threads, memory shared or private", async () => {
    await fc.assert(fc.asyncProperty(sizes, fc.nat(), checkEngines), { numRuns: 20 });
  });

  // A tile has up to 1024 tokens, a block 64 rows, a window 4 MiB: these are more than one.
  test.each([
    { dModel: 3, dState: 5, batch: 2, seqLen: 2203 },
    { dModel: 1, dState: 33, batch: 3, seqLen: 1055 },
    { dModel: 33, dState: 7, batch: 67, seqLen: 263 },
    { dModel: 70, dState: 130, batch: 1, seqLen: 700 },
  ])("any number of threads: %o", async (given) => {
    await checkEngines({ ...given, seed: 5, magnitude: 1 }, 0b1100101);
  });

  test("the order of a batch's rows, and a row by itself", async () => {
    await checkLayer(25, async (lru, x, { batch }, random) => {
      const order = [...Array(batch).keys()].sort((a, b) => ((random >> a) % 7) - ((random >> b) % 7));
      const { y, state } = await lru.forward(x, { batch });
      const shuffled = await lru.forward(rows(x, batch, order), { batch });
      expectSameBits(shuffled.y, rows(y, batch, order), `y in order ${order}`);
      const [row] = order as [number];
      const alone = await lru.forward(rows(x, batch, [row]));
      expectSameBits(alone.y, rows(y, batch, [row]), `y of row ${row}`);
      expectSameBits(alone.state.get().re, rows(state.get().re, batch, [row]), `re of row ${row}`);
      expectSameBits(alone.state.get().im, rows(state.get().im, batch, [row]), `im of row ${row}`);
    });
  });

  test("rows of different lengths = each row by itself, then zeros", async () => {
    await checkLayer(25, async (lru, x, { batch, seqLen, dModel }, random) => {
      const lengths = Array.from({ length: batch }, (_, row) => (random >> (3 * row)) % (seqLen + 1));
      const out = new Float32Array(x.length).fill(7);
      const { y, state } = await lru.forward(x, { batch, lengths, out });
      expect(y).toBe(out);
      for (const [row, length] of lengths.entries()) {
        const alone = await lru.forward(cut(rows(x, batch, [row]), 1, dModel, 0, length));
        const padded = new Float32Array(seqLen * dModel);
        padded.set(alone.y);
        expectSameBits(rows(y, batch, [row]), padded, `y of row ${row}, length ${length} of ${seqLen}`);
        expectSameBits(rows(state.get().re, batch, [row]), alone.state.get().re, `re of row ${row}`);
        expectSameBits(rows(state.get().im, batch, [row]), alone.state.get().im, `im of row ${row}`);
      }
    });
  });

  test("a state that was saved and restored, or cloned, goes on with the same bits", async () => {
    await checkLayer(25, async (lru, x, { batch, seqLen, dModel }, random) => {
      const at = random % (seqLen + 1);
      const rest = cut(x, batch, dModel, at, seqLen);
      const { state } = await lru.forward(cut(x, batch, dModel, 0, at), { batch });
      const expected = await lru.forward(rest, { batch, state });
      const copies = { restored: lru.deserializeState(lru.serializeState(state)), cloned: state.clone() };
      for (const [name, copy] of Object.entries(copies)) {
        const actual = await lru.forward(rest, { batch, state: copy });
        expectSameBits(actual.y, expected.y, `${name}: y of forward`);
        expectSameBits(join(stepThrough(lru, rest, copy), batch), expected.y, `${name}: y of steps`);
        expectSameState([lru, copy], [lru, expected.state], name);
      }
    });
  });

  test("a clone and its original do not share anything", async () => {
    const lru = await engine.lru(hardParams(3, 5, 1));
    const x = floats(2 * 40 * 3, 2);
    const { state } = await lru.forward(x, { batch: 2 });
    const before = lru.serializeState(state);
    const clone = state.clone();
    stepThrough(lru, x, clone);
    expectSameBits(lru.serializeState(state), before, "the original");
    state.reset([1]);
    expect(state.get().re.subarray(5)).toEqual(new Float32Array(5));
    expectSameBits(
      state.get().re.subarray(0, 5),
      lru.deserializeState(before).get().re.subarray(0, 5),
      "row 0",
    );
    lru.dispose();
  });

  test("x and out in the engine's memory = ordinary arrays", async () => {
    const check = async (given: Sizes, which: number) => {
      const { params, x } = problem(given);
      const { batch } = given;
      const { name, engine } = engines[which % engines.length] as NamedEngine;
      const lru = await engine.lru(params);
      const expected = await lru.forward(x, { batch });
      const mine = engine.allocate(x.length);
      expectSameBits(mine, new Float32Array(x.length), "memory that was allocated");
      mine.set(x);
      const out = engine.allocate(x.length).fill(7);
      const actual = await lru.forward(mine, { batch, out });
      expect(actual.y).toBe(out);
      expectSameBits(out, expected.y, `out, ${name}`);
      expectSameBits(mine, x, "x");
      expectSameBits((await lru.forward(mine, { batch })).y, expected.y, `y, ${name}`);
      expectSameBits((await lru.forward(x, { batch, out })).y, expected.y, `out alone, ${name}`);
      lru.dispose();
    };
    await fc.assert(fc.asyncProperty(sizes, fc.nat(), check), { numRuns: 20 });
  });

  test("a NaN stays in its row and spoils no earlier token, on every engine alike", async () => {
    const params = hardParams(5, 9, 3);
    const x = floats(3 * 150 * 5, 4);
    const spoiled = x.slice();
    spoiled[(150 + 70) * 5 + 2] = Number.NaN;
    for (const { name, engine } of engines) {
      const lru = await engine.lru(params);
      const clean = (await lru.forward(x, { batch: 3 })).y;
      const { y } = await lru.forward(spoiled, { batch: 3 });
      expectSameBits(rows(y, 3, [0, 2]), rows(clean, 3, [0, 2]), `${name}: the other rows`);
      expectSameBits(
        cut(rows(y, 3, [1]), 1, 5, 0, 70),
        cut(rows(clean, 3, [1]), 1, 5, 0, 70),
        `${name}: before`,
      );
      expect(cut(rows(y, 3, [1]), 1, 5, 70, 150).every(Number.isNaN), `${name}: after`).toBe(true);
      lru.dispose();
    }
  });
});
