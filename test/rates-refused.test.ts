/** What networks whose rate changes refuse, with what reasons; and that they are written as they were read. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createEngine, type Engine, writeModel, writeSafetensors } from "../src/index.js";
import { readSafetensors } from "../src/io/safetensors.js";
import type { ModelSpec } from "../src/models/architecture.js";
import { buildProgram } from "../src/models/build.js";
import cases from "./fixtures/lrnnx/cases.json" with { type: "json" };
import { expectSameBits } from "./support/bits.js";
import { loadLrnnx } from "./support/lrnnx.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats } from "./support/problems.js";

const names = cases.map(({ name }) => name);

describe("what cannot be", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ backend: "wasm", threads: 0 });
  });
  afterAll(() => engine.dispose());
  const load = async (name: string, spec?: Partial<ModelSpec>) => {
    const golden = await loadLrnnx(name);
    return engine.model(writeSafetensors(golden.checkpoint), { ...golden.spec, ...spec });
  };

  test.each(["max", "mean", "stride"] as const)(
    "tokens without timesteps in a window (%s) whose first tokens had some",
    async (intermediatePooling) => {
      const model = await load("cls_04_dense_last_maxpool", { intermediatePooling });
      const x = (tokens: number) => new Float32Array(tokens * 3).fill(0.5);
      const refusal = /window that is not full yet \(row 1\).*integrationTimesteps.*1 where/;
      const cache = model.allocateInferenceCache(2);
      for (let t = 0; t < 21; t++)
        model.stepSync(x(2), cache, { integrationTimesteps: Float32Array.of(1, 1.5) });
      const before = model.serializeState(cache);
      expectLinrecError(await errorOf(() => model.stepSync(x(2), cache)), "invalid-argument", refusal);
      expectLinrecError(await errorOf(() => model.step(x(2), cache)), "invalid-argument", refusal);
      const again = { rows: Int32Array.of(1), reset: [0, 1] };
      expectLinrecError(await errorOf(() => model.stepMany(x(2), cache, again)), "invalid-argument", refusal);
      const on = { batch: 2, state: cache };
      expectLinrecError(await errorOf(() => model.forward(x(64), on)), "invalid-argument", refusal);
      expect(model.serializeState(cache)).toEqual(before);
      await model.forward(x(64), { ...on, integrationTimesteps: new Float32Array(64).fill(1) });
      await model.forward(x(64), { ...on, reset: Array.from({ length: 64 }, (_, i) => i === 32) });
      model.stepSync(x(1), cache, { rows: Int32Array.of(0) });
      model.stepSync(x(2), cache, { reset: [0, 1] });
      model.stepSync(x(2), cache);
    },
  );

  test("a sequence too short for its windows", async () => {
    const model = await load("cls_04_dense_last_maxpool");
    expectLinrecError(
      await errorOf(() => model.forward(new Float32Array(7 * 3))),
      "invalid-argument",
      /7 tokens.*8/,
    );
    expect((await model.forward(new Float32Array(8 * 3))).y.length).toBe(5);
    const cache = model.allocateInferenceCache();
    for (let t = 0; t < 3; t++) model.stepSync(new Float32Array(3), cache);
    const short = () => model.forward(new Float32Array(4 * 3), { state: cache });
    expectLinrecError(await errorOf(short), "invalid-argument", /4 tokens.*after 3 before.*8/);
    expect((await model.forward(new Float32Array(5 * 3), { state: cache })).y.every(Number.isFinite)).toBe(
      true,
    );
  });

  test("a U-Net by steps, or from a state", async () => {
    const model = await load("unet_01_default");
    const { state } = await model.forward(new Float32Array(16));
    for (const call of [
      () => model.allocateInferenceCache(),
      () => model.stepSync(new Float32Array(1), state),
      () => model.step(new Float32Array(1), state),
      () => model.forward(new Float32Array(16), { state }),
      () => model.explain("step"),
    ]) {
      expectLinrecError(await errorOf(call), "unsupported", /later/);
    }
    expect((await model.forward(new Float32Array(0))).y.length).toBe(0);
  });

  test("a spec that is changed while a model is made does not change it", async () => {
    const { checkpoint, spec } = await loadLrnnx("cls_04_dense_last_maxpool");
    const [bytes, changed] = [writeSafetensors(checkpoint), { ...spec, poolingFactor: [2, 2, 2] }];
    const making = engine.model(bytes, changed);
    changed.poolingFactor.fill(3);
    Object.assign(changed, { pooling: "mean" });
    const [model, same] = [await making, await engine.model(bytes, spec)];
    expect(model.describe()).toBe(same.describe());
    const x = floats(16 * 3, 1);
    expectSameBits((await model.forward(x)).y, (await same.forward(x)).y, "y");
  });

  test("options that do not fit", async () => {
    const fault = (spec: object) =>
      errorOf(() => load("cls_04_dense_last_maxpool", spec as Partial<ModelSpec>));
    expectLinrecError(
      await fault({ pooling: "none" }),
      "invalid-argument",
      /pooling must be "last" or "mean" or "max"/,
    );
    expectLinrecError(await fault({ intermediatePooling: "last" }), "invalid-argument", /"stride"/);
    expectLinrecError(await fault({ poolingFactor: 0 }), "invalid-argument", /at least 1/);
    for (const option of ["intermediatePooling", "poolingFactor"])
      expectLinrecError(
        await fault({ [option]: new Array(3) }),
        "invalid-argument",
        /or a list of these; got/,
      );
    expectLinrecError(await fault({ poolingFactor: [2, 2] }), "invalid-argument", /2 entries.*3 blocks/);
    expect(
      (await load("cls_04_dense_last_maxpool", { poolingFactor: 1 })).stages.map(({ kind }) => kind),
    ).not.toContain("window");
  });

  test.each(names)("%s is read off its names, and written as it was", async (name) => {
    const { checkpoint, spec } = await loadLrnnx(name);
    expect(buildProgram(checkpoint).architecture).toBe(spec.architecture);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const { tensors, metadata } = readSafetensors(writeModel(model));
    expect(JSON.parse(metadata["linrec"] as string)).toMatchObject({ ...spec });
    expect(tensors.size).toBe(checkpoint.size);
    for (const [key, tensor] of checkpoint) expect(tensors.get(key), key).toEqual(tensor);
    model.dispose();
  });

  test("a stream has nothing to say before its first window is full, and ends on what forward says", async () => {
    const model = await load("cls_04_dense_last_maxpool");
    const x = floats(30 * 3, 7);
    const pieces = [3, 8, 19].map((tokens, i) =>
      x.subarray(3 * ([0, 3, 11][i] as number)).subarray(0, 3 * tokens),
    );
    const said: Float32Array[] = [];
    for await (const { y } of model.forwardStream(pieces, { tokens: 3 })) said.push(y);
    expect(said[0]?.every(Number.isNaN)).toBe(true);
    expectSameBits(said.at(-1) as Float32Array, (await model.forward(x)).y, "the last");
  });
});
