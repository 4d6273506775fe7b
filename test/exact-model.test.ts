/** The CPU's bit-exactness for whole models: what exact.test.ts holds a layer to, with norms, gates and pools around it. */
import { afterAll, beforeAll, describe, test } from "vitest";
import { type Engine, type Input, type Model, writeSafetensors } from "../src/index.js";
import { CHUNK } from "../src/state.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines, type NamedEngine } from "./support/engines.js";
import { goldenNames, loadGolden } from "./support/golden.js";
import { floats, random } from "./support/problems.js";
import { cut, join, rows, stepThrough } from "./support/sequences.js";

const names = goldenNames.filter((name) => !name.startsWith("lru_"));

describe.each(builds)("%s SIMD", (build) => {
  let engines: NamedEngine[] = [];
  /** Calling thread only. */
  let engine: Engine;

  beforeAll(async () => {
    engines = await createEngines(build, [0, 1, 2, 3, 8], [0, 2, 3]);
    engine = (engines[0] as NamedEngine).engine;
  });
  afterAll(() => Promise.all(engines.map((named) => named.engine.dispose())));

  describe.each(names)("%s", (name) => {
    let model: Model;
    let pooled: boolean;
    let bytes: Uint8Array<ArrayBuffer>;
    const batch = 3;

    beforeAll(async () => {
      const { checkpoint, spec } = await loadGolden(name);
      bytes = writeSafetensors(checkpoint, { linrec: JSON.stringify(spec) });
      model = await engine.model(bytes);
      pooled = model.stages.some(({ kind }) => kind === "pool");
    });

    const input = (seqLen: number, seed = 1): Input => {
      const { vocabulary, inputWidth } = model;
      const next = random(seed);
      return vocabulary === undefined
        ? floats(batch * seqLen * inputWidth, seed)
        : Int32Array.from({ length: batch * seqLen }, () => Math.floor(vocabulary * next()));
    };

    /** What steps give, as forward gives it: all of it, or the last of a model that pools. */
    function steppedY(steps: Float32Array[]): Float32Array {
      return pooled ? (steps.at(-1) as Float32Array) : join(steps, batch);
    }

    test.each([1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 101])(
      "step after step = forward, %i tokens",
      async (seqLen) => {
        const x = input(seqLen, seqLen);
        const { y, state } = await model.forward(x, { batch });
        const cache = model.allocateInferenceCache(batch);
        expectSameBits(steppedY(stepThrough(model, x, cache)), y, "y");
        expectSameState([model, cache], [model, state], "state");
      },
    );

    test("every step's output = forward over the tokens so far", async () => {
      const seqLen = 67;
      const x = input(seqLen);
      const steps = stepThrough(model, x, model.allocateInferenceCache(batch));
      for (const length of [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 66]) {
        const { y } = await model.forward(cut(x, batch, model.inputWidth, 0, length), { batch });
        expectSameBits(steppedY(steps.slice(0, length)), y, `after ${length}`);
      }
    });

    test.each([1, 17, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 129])(
      "cut after %i tokens = whole",
      async (at) => {
        const seqLen = 131;
        const x = input(seqLen);
        const whole = await model.forward(x, { batch });
        const first = await model.forward(cut(x, batch, model.inputWidth, 0, at), { batch });
        const rest = cut(x, batch, model.inputWidth, at, seqLen);
        const restored = model.deserializeState(model.serializeState(first.state));
        for (const state of [first.state, first.state.clone(), restored]) {
          const second = await model.forward(rest, { batch, state });
          expectSameBits(pooled ? second.y : join([first.y, second.y], batch), whole.y, "y");
          expectSameState([model, second.state], [model, whole.state], "state");
        }
      },
    );

    // 1700 tokens are several tiles, even on the calling thread.
    test.each([0b0, 0b11, 0b1001])(
      "any number of threads, memory shared or private (%i)",
      async (pattern) => {
        const seqLen = pattern === 0 ? 1700 : 211;
        const x = input(seqLen, pattern);
        const next = random(pattern);
        const lengths = Array.from({ length: batch }, () => 1 + Math.floor(next() * seqLen));
        const whole = await model.forward(x, { batch });
        const ragged = await model.forward(x, { batch, lengths, state: whole.state });
        for (const { name, engine } of engines) {
          const other = await engine.model(bytes);
          const memory = engine.allocate(x.length);
          const isIds = x instanceof Int32Array;
          const x2 = isIds ? new Int32Array(memory.buffer, memory.byteOffset, x.length) : memory;
          x2.set(x);
          const out = engine.allocate(whole.y.length).fill(7);
          const otherWhole = await other.forward(x2, { batch, out });
          expectSameBits(out, whole.y, `y, ${name}`);
          expectSameState([other, otherWhole.state], [model, whole.state], `state, ${name}`);
          const otherRagged = await other.forward(x, { batch, lengths, state: otherWhole.state });
          expectSameBits(otherRagged.y, ragged.y, `y of a ragged batch, ${name}`);
          expectSameState([other, otherRagged.state], [model, ragged.state], `its state, ${name}`);
          other.dispose();
        }
      },
    );

    test("a row by itself = in a batch, whatever the order and the lengths", async () => {
      const seqLen = 95;
      const x = input(seqLen);
      const { y } = await model.forward(x, { batch });
      const order = [2, 0, 1];
      const shuffled = await model.forward(rows(x, batch, order), { batch });
      expectSameBits(shuffled.y, rows(y, batch, order), "y in another order");
      const lengths = [95, 33, 1];
      const ragged = await model.forward(x, { batch, lengths });
      for (const [row, length] of lengths.entries()) {
        const alone = await model.forward(cut(rows(x, batch, [row]), 1, model.inputWidth, 0, length));
        const padded = new Float32Array(ragged.y.length / batch);
        padded.set(alone.y);
        expectSameBits(rows(ragged.y, batch, [row]), padded, `y of row ${row}`);
        for (const [i, h] of ragged.state.get().entries()) {
          expectSameBits(
            rows(h.re, batch, [row]),
            alone.state.get()[i]?.re as Float32Array,
            `re of row ${row}`,
          );
          expectSameBits(
            rows(h.im, batch, [row]),
            alone.state.get()[i]?.im as Float32Array,
            `im of row ${row}`,
          );
        }
      }
    });

    test("set(get()) of a fresh chunk goes on from the same h", async () => {
      const x = input(64);
      const { state } = await model.forward(x, { batch });
      const copy = model.allocateInferenceCache(batch);
      copy.set(state.get());
      for (const [i, h] of state.get().entries()) {
        expectSameBits(copy.get()[i]?.re as Float32Array, h.re, `re of layer ${i}`);
        expectSameBits(copy.get()[i]?.im as Float32Array, h.im, `im of layer ${i}`);
      }
    });
  });
});
