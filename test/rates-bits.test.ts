/** Networks whose rate changes, bit for bit: by steps, cut anywhere, on any threads, in many segments. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Model, writeSafetensors } from "../src/index.js";
import { buildProgram } from "../src/models/build.js";
import { shortestOf } from "../src/rates.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { randomClassifier, randomUnet } from "./support/lrnnx.js";
import { floats } from "./support/problems.js";
import { runNetwork, shortenSegments } from "./support/rates.js";
import { cut, rows, stepThrough } from "./support/sequences.js";

describe.each(builds)("bit for bit, %s SIMD", (build) => {
  let engines: Awaited<ReturnType<typeof createEngines>>;
  beforeAll(async () => {
    engines = await createEngines(build, [0, 2], [0, 2]);
  });
  afterAll(() => Promise.all(engines.map(({ engine }) => engine.dispose())));
  const first = () => (engines[0] as (typeof engines)[number]).engine;

  describe.each([1, 2, 3, 4, 6])("classifier %i", (seed) => {
    const made = randomClassifier(seed);
    const { checkpoint, spec, x, batch, seqLen, lengths } = made;
    const bytes = writeSafetensors(checkpoint);
    let model: Model;
    beforeAll(async () => {
      model = await first().model(bytes, spec);
    });

    test("every step = forward over the tokens so far; NaN before the first window is full", async () => {
      const cache = model.allocateInferenceCache(batch);
      const steps = stepThrough(model, x, cache);
      const least = shortestOf(model.program);
      for (const [t, y] of steps.entries()) {
        if (t + 1 < least) expect(y.every(Number.isNaN)).toBe(true);
        else if (t + 1 < least + 9 || t > seqLen - 4) {
          const part = cut(x, batch, model.inputWidth, 0, t + 1);
          expectSameBits(y, (await model.forward(part, { batch })).y, `after ${t + 1}`);
        }
      }
      expectSameState([model, cache], [model, (await model.forward(x, { batch })).state], "state");
    });

    test("cut anywhere, through a file; a ragged end leaves no trace in the state", async () => {
      const whole = await model.forward(x, { batch });
      const least = shortestOf(model.program);
      for (const at of [least, least + 1, Math.floor(seqLen / 2), seqLen - 1]) {
        const { state } = await model.forward(cut(x, batch, model.inputWidth, 0, at), { batch });
        const restored = model.deserializeState(model.serializeState(state));
        const { y, state: end } = await model.forward(cut(x, batch, model.inputWidth, at, seqLen), {
          state: restored,
        });
        expectSameBits(y, whole.y, `cut after ${at}`);
        expectSameState([model, end], [model, whole.state], "state");
      }
      const ragged = await model.forward(x, { batch, lengths });
      for (const [row, length] of lengths.entries()) {
        const own = cut(rows(x, batch, [row]), 1, model.inputWidth, length, seqLen);
        const rest = await model.forward(rows(x, batch, [row]), { lengths: [length] });
        expectSameBits(rest.y, rows(ragged.y, batch, [row]), `row ${row} by itself`);
        if (own.length === 0) continue;
        const on = await model.forward(own, { state: rest.state });
        expectSameBits(on.y, rows(whole.y, batch, [row]), `row ${row} to its end`);
      }
    });

    test("any threads, shared memory or not, any segments", async () => {
      const whole = await model.forward(x, { batch, lengths });
      for (const { name, engine } of engines) {
        const other = await engine.model(bytes, spec);
        for (const what of [name, `${name}, in many segments`]) {
          const { y, state } = await other.forward(x, { batch, lengths });
          expectSameBits(y, whole.y, what);
          expectSameState([other, state], [model, whole.state], what);
          shortenSegments(other.program);
        }
        other.dispose();
      }
    });

    test("streams that were reset step beside others: windows at different places", async () => {
      const cache = model.allocateInferenceCache(batch);
      const token = (t: number) => cut(x, batch, model.inputWidth, t, t + 1);
      for (let t = 0; t < 3; t++) model.stepSync(token(t), cache);
      cache.reset([0]);
      const steps = [3, 4, 5, 6, 7, 8, 9, 10].map((t) => model.stepSync(token(t), cache));
      const alone = model.allocateInferenceCache(1);
      const fresh = stepThrough(model, cut(rows(x, batch, [0]), 1, model.inputWidth, 3, 11), alone);
      for (const [i, y] of steps.entries()) {
        expectSameBits(rows(y, batch, [0]), fresh[i] as Float32Array, `step ${i} of the row that was reset`);
      }
      const both = stepThrough(
        model,
        cut(x, batch, model.inputWidth, 0, 11),
        model.allocateInferenceCache(batch),
      );
      const order = Array.from({ length: batch - 1 }, (_, i) => i + 1);
      expectSameBits(
        rows(steps.at(-1) as Float32Array, batch, order),
        rows(both.at(-1) as Float32Array, batch, order),
        "the other rows",
      );
    });
  });

  test.each([1, 2, 3])("U-Net %i: any threads, and every row as if alone", async (seed) => {
    const { checkpoint, spec, x, batch, seqLen, lengths } = randomUnet(seed);
    const bytes = writeSafetensors(checkpoint);
    const model = await first().model(bytes, spec);
    const whole = await model.forward(x, { batch, lengths });
    for (const { name, engine } of engines) {
      const other = await engine.model(bytes, spec);
      expectSameBits((await other.forward(x, { batch, lengths })).y, whole.y, name);
      other.dispose();
    }
    for (const [row, length] of lengths.entries()) {
      const alone = await model.forward(cut(rows(x, batch, [row]), 1, model.inputWidth, 0, length));
      const padded = new Float32Array(seqLen * model.outputWidth);
      padded.set(alone.y);
      expectSameBits(rows(whole.y, batch, [row]), padded, `row ${row}`);
    }
  });

  test.each([
    ["classifier", randomClassifier(2)],
    ["U-Net", randomUnet(3)],
  ])("%s: forwards at the same time leave each other alone", async (_, { checkpoint, spec, x, batch }) => {
    const inputs = [1, 2, 3].map((seed) => floats(x.length, seed));
    for (const { name, engine } of engines) {
      const model = await engine.model(writeSafetensors(checkpoint), spec);
      const together = await Promise.all(inputs.map((own) => model.forward(own, { batch })));
      for (const [i, { y }] of together.entries()) {
        const alone = await model.forward(inputs[i] as Float32Array, { batch });
        expectSameBits(y, alone.y, `${name}, forward ${i}`);
      }
      model.dispose();
    }
  });

  test("many segments: a sequence in two halves, and against the oracle", async () => {
    const seqLen = 90_001;
    const classifier = randomClassifier(2);
    const model = await first().model(writeSafetensors(classifier.checkpoint), classifier.spec);
    const x = floats(seqLen * model.inputWidth, 5);
    const seen: number[] = [];
    const whole = await model.forward(x, { onProgress: ({ done }) => seen.push(done) });
    expect(seen.length).toBeGreaterThan(1);
    expect(seen.at(-1)).toBe(seqLen);
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => a - b));
    const half = await model.forward(x.subarray(0, 33_333 * model.inputWidth));
    const rest = await model.forward(x.subarray(33_333 * model.inputWidth), { state: half.state });
    expectSameBits(rest.y, whole.y, "two halves");

    const unet = randomUnet(3);
    const deep = await first().model(writeSafetensors(unet.checkpoint), unet.spec);
    const long = floats(seqLen * deep.inputWidth, 6);
    const { y } = await deep.forward(long);
    const network = buildProgram(unet.checkpoint, {}, unet.spec);
    expect(relativeError(y, runNetwork(network, { x: long, batch: 1, seqLen }).y)).toBeLessThan(1e-5);
  });
});
