/** integrationTimesteps where there is a GPU: within the limit, between backends, after a loss; and the tables it keeps of them. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { linearLimit } from "../src/engine/selfTest.js";
import { createEngine, type Engine } from "../src/index.js";
import { programOf } from "../src/lruParams.js";
import { runReference } from "../src/reference.js";
import { placeTimesteps } from "../src/webgpu/timesteps.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { needBackend } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { onSubmit, shrink, standInGpu } from "./support/gpus.js";
import { floats, hardParams, problem, random, timestepsOf } from "./support/problems.js";
import { cut, join } from "./support/sequences.js";

describe("where there is a GPU", () => {
  const told: string[] = [];
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({
      backend: ["webgpu", "wasm"],
      onFallback: ({ from, to, reason }) => told.push(`${from} to ${to}: ${reason}`),
    });
  });
  afterAll(() => engine.dispose());

  test("within the limit of a plain float32 recurrence", async (context) => {
    needBackend(context, engine, "webgpu");
    const backend = "webgpu";
    for (const given of [
      { dModel: 1, dState: 1, batch: 1, seqLen: 3 },
      { dModel: 5, dState: 9, batch: 3, seqLen: 211 },
      { dModel: 33, dState: 70, batch: 2, seqLen: 500 },
    ]) {
      const { batch, seqLen } = given;
      const { params, x } = problem({ ...given, seed: 3, magnitude: 1 });
      const lru = await engine.lru(params);
      for (const seed of [0, 1, 3]) {
        const timesteps = timestepsOf(batch * seqLen, seed);
        const { y } = await lru.forward(x, { batch, integrationTimesteps: timesteps, backend });
        const expected = runReference(programOf(params, "lru"), { x, batch, seqLen, timesteps }).y;
        const limit = linearLimit(params, x, batch, seqLen, undefined, timesteps);
        expect(relativeError(y, expected), `${JSON.stringify(given)}, ${seed}`).toBeLessThanOrEqual(limit);
      }
      lru.dispose();
    }
  });

  test("steps and a state that goes between the backends", async (context) => {
    needBackend(context, engine, "webgpu");
    const params = hardParams(3, 5, 2);
    const lru = await engine.lru(params);
    const x = floats(40 * 3, 1);
    const timesteps = timestepsOf(40, 1);
    const part = (from: number, to: number) => ({ integrationTimesteps: timesteps.subarray(from, to) });
    const first = await lru.forward(x.subarray(0, 60), { ...part(0, 20), backend: "webgpu" });
    const second = await lru.forward(x.subarray(60, 90), {
      ...part(20, 30),
      backend: "wasm",
      state: first.state,
    });
    const steps: number[] = [];
    for (let t = 30; t < 40; t++)
      steps.push(...(await lru.step(x.subarray(3 * t, 3 * t + 3), second.state, part(t, t + 1))));
    const { y } = runReference(programOf(params, "lru"), { x, batch: 1, seqLen: 40, timesteps });
    expect(relativeError([...first.y, ...second.y, ...steps], y)).toBeLessThan(2e-6);
    lru.dispose();
  });

  test.for(["reference", "wasm", "webgpu"] as const)(
    "3,000 different values, ragged, over resets, from a state: %s",
    async (backend, context) => {
      needBackend(context, engine, backend);
      const given = { dModel: 3, dState: 9, batch: 3, seqLen: 1400 };
      const { batch, seqLen, dModel } = given;
      const { params, x } = problem({ ...given, seed: 6, magnitude: 1 });
      const timesteps = Float32Array.from({ length: batch * seqLen }, (_, i) => (i + 1) / 1024);
      const lengths = [seqLen, 701, 1333];
      const next = random(3);
      const reset = Int32Array.from(timesteps, () => (next() < 0.005 ? 1 : 0));
      const lru = await engine.lru(params);
      const start = lru.allocateInferenceCache(batch);
      start.set(floats(batch * 9, 3), floats(batch * 9, 4));
      const read = (from: number, to: number, state = start) =>
        lru.forward(cut(x, batch, dModel, from, to), {
          ...{ state, backend, lengths: lengths.map((length) => Math.max(0, Math.min(length, to) - from)) },
          integrationTimesteps: cut(timesteps, batch, 1, from, to),
          reset: cut(reset, batch, 1, from, to),
        });
      // What has room in a table joins what is known; what has not makes it grow.
      let cache = start;
      const pieces: Float32Array[] = [];
      const cuts = [0, 5, 1000, 1200, seqLen];
      for (const [i, to] of cuts.slice(1).entries()) {
        const piece = await read(cuts[i] as number, to, cache);
        pieces.push(piece.y);
        cache = piece.state;
      }
      const { y, state } = await read(0, seqLen);
      const resets = lengths.map((length, row) =>
        Int32Array.from(Array.from({ length }, (_, t) => t).filter((t) => reset[row * seqLen + t])),
      );
      const expected = runReference(programOf(params, "lru"), {
        ...{ x, batch, seqLen, lengths, timesteps, resets, state: start.state },
      }).y;
      const limit = linearLimit(params, x, batch, seqLen, start.state, timesteps);
      expect(relativeError(y, expected)).toBeLessThanOrEqual(limit);
      expectSameBits(join(pieces, batch), y, "y, cut");
      expectSameState([lru, cache], [lru, state], "state, cut");
      expect(told).toEqual([]);
      lru.dispose();
    },
  );

  test("lost between two pieces: the next device has tables of its own, and the same bits", async (context) => {
    let [submits, lost] = [0, -1];
    const changed = await standInGpu((handle) => {
      shrink(handle, 2 ** 16);
      onSubmit(handle, () => {
        if (submits++ === lost) handle.destroy();
      });
    });
    if ("reason" in changed) return context.skip(changed.reason);
    const engine = await createEngine({ backend: ["webgpu", "wasm"], threads: 0, gpu: changed.gpu });
    const lru = await engine.lru(hardParams(3, 9, 4));
    const x = floats(3000 * 3, 2);
    // Of which the first third comes again.
    const integrationTimesteps = Float32Array.from({ length: 3000 }, (_, i) => (i % 2000) / 1000);
    const { y, state } = await lru.forward(x, { integrationTimesteps });
    expect(submits).toBeGreaterThan(3);
    lost = submits + 2;
    const again = await lru.forward(x, { integrationTimesteps });
    expect(submits).toBeGreaterThan(lost);
    expectSameBits(again.y, y, "y");
    expectSameState([lru, again.state], [lru, state], "state");
    await engine.dispose();
  });
});

test("rows in tables of timesteps: those that are known stay, and full tables start anew", () => {
  const known = new Map<number, number>();
  const place = (...values: number[]) => {
    const { indices, ...rest } = placeTimesteps(known, Float32Array.from(values), 4);
    return { indices: [...indices], ...rest };
  };
  expect(place(2, 2, 0.5)).toEqual({ indices: [0, 0, 1], first: 0, values: [2, 0.5] });
  expect(place(0.5, 3, 2, 3)).toEqual({ indices: [1, 2, 0, 2], first: 2, values: [3] });
  expect(place(0.5, 2)).toEqual({ indices: [1, 0], first: 3, values: [] });
  expect(place(3, 7, 8, 3)).toEqual({ indices: [0, 1, 2, 0], first: 0, values: [3, 7, 8] });
  expect(place(8, 9)).toEqual({ indices: [2, 3], first: 3, values: [9] });
});
