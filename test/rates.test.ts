/**
 * Networks whose rate changes, on every backend: lrnnx's classifier and U-Net against their source, run in float64
 * (test/fixtures/lrnnx), and networks made at random against a float64 oracle that shares nothing with the chain.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEngine,
  type Engine,
  type EngineOptions,
  type Model,
  type Tensor,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { readSafetensors } from "../src/io/safetensors.js";
import type { ModelSpec } from "../src/models/architecture.js";
import { buildProgram } from "../src/models/build.js";
import { type BackendName, flopsPerToken, type Stage } from "../src/program.js";
import { withRates } from "../src/rateChanges.js";
import { partsOf, shortestOf } from "../src/rates.js";
import { plan } from "../src/scheduler.js";
import cases from "./fixtures/lrnnx/cases.json" with { type: "json" };
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines, needBackend } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { type LrnnxCase, loadLrnnx, randomClassifier, randomUnet } from "./support/lrnnx.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, random } from "./support/problems.js";
import { runNetwork, type Sequence } from "./support/rates.js";
import { cut, rows, stepThrough } from "./support/sequences.js";

const names = cases.map(({ name }) => name);

describe("the float64 oracle", () => {
  test.each(names)("%s, with everything on the way", async (name) => {
    const golden = await loadLrnnx(name);
    const { y, traces } = runNetwork(buildProgram(golden.checkpoint, {}, golden.spec), golden);
    expect(relativeError(y, golden.y)).toBeLessThan(1e-11);
    let compared = 0;
    for (const [key, tensor] of golden.tensors) {
      const where = stageOf(key, golden);
      if (!where) continue;
      const { at, channelsFirst } = where;
      const [batch, a = 1, b = 1] = tensor.shape as [number, number?, number?];
      for (let row = 0; row < batch; row++) {
        const values = (tensor.data as Float64Array).subarray(row * a * b, (row + 1) * a * b);
        const expected =
          tensor.shape.length === 2 ? values : channelsFirst ? transposed(values, a, b) : values;
        const { values: actual, length, width } = (traces[row] as Map<string, Sequence>).get(at) as Sequence;
        // What follows a row's end is the source's own business.
        expect(
          relativeError(actual.subarray(0, length * width), expected.subarray(0, length * width)),
          key,
        ).toBeLessThan(1e-10);
      }
      compared++;
    }
    expect(compared).toBeGreaterThan(3);
  });
});

/** The stage whose output a tensor "mid.*" is. */
function stageOf(key: string, { name, spec, tensors }: LrnnxCase) {
  const at = (stage: string, channelsFirst = false) => ({ at: stage, channelsFirst });
  if (!key.startsWith("mid.")) return undefined;
  const [, what = "", detail] = key.split(".");
  const number = Number(/\d+$/.exec(what)?.[0]);
  if (name.startsWith("cls")) {
    const last = [...tensors.keys()].filter((other) => /^mid\.block\d+\.norm$/.test(other)).length - 1;
    const block = number === last ? "final_block." : `blocks.${number}.`;
    if (what === "final_pooled") return at("final_block.pool pool");
    if (what === "input") {
      const projected = tensors.has("embed_proj.weight") ? "embed_proj dense" : "input_proj dense";
      return at(projected);
    }
    if (detail === "lru") return at(`${block}lrnn lru`);
    if (detail === "norm") return at(`${block}norm layerNorm`);
    const modes = spec.intermediatePooling;
    const mode = typeof modes === "string" ? modes : modes?.[number];
    return at(mode === "none" ? `${block}norm layerNorm` : `${block}pool window`);
  }
  if (what.startsWith("down"))
    return detail ? at(`down_ssms.${number}.0.silu glu`) : at(`down_ssms.${number}.1.conv dense`, true);
  if (what === "hid") return at("hid_ssms.1.silu glu");
  if (what === "last") return at("last_ssms.1.0.lru_layer lru");
  if (!detail) return at(`up_ssms.${number}.1.silu glu`);
  return at(spec.causal ? `up_ssms.${number}.shift shift` : `up_ssms.${number}.unfold reshape`, true);
}

function transposed(values: Float64Array, outer: number, inner: number): Float64Array {
  return Float64Array.from(values, (_, i) => values[(i % outer) * inner + Math.floor(i / outer)] as number);
}

interface Candidate {
  readonly name: string;
  readonly backend: BackendName;
  readonly options: EngineOptions;
  readonly limit: number;
}

const candidates: Candidate[] = [
  // What is between the parts of a chain is in float64 here: y is rounded once.
  { name: "reference", backend: "reference", options: {}, limit: 2e-7 },
  { name: "wasm, calling thread", backend: "wasm", options: { threads: 0 }, limit: 1e-5 },
  { name: "wasm, 2 threads", backend: "wasm", options: { threads: 2 }, limit: 1e-5 },
  { name: "webgpu", backend: "webgpu", options: {}, limit: 5e-5 },
];

describe.each(candidates)("$name", ({ name: title, backend, options, limit }) => {
  let engine: Engine;
  let worst = 0;

  beforeAll(async () => {
    engine = await createEngine({ backend: [backend, "reference"], ...options });
  });
  afterAll(async () => {
    console.log(`rates, ${title}: worst error ${worst.toExponential(2)}, limit ${limit}`);
    await engine.dispose();
  });

  function check(error: number, what: string): void {
    worst = Math.max(worst, error);
    expect(error, what).toBeLessThanOrEqual(limit);
  }

  test.for(names)("%s", async (name, context) => {
    needBackend(context, engine, backend);
    const golden = await loadLrnnx(name);
    const { x, batch, lengths } = golden;
    const model = await engine.model(writeSafetensors(golden.checkpoint), golden.spec);
    const { y } = await model.forward(x, { batch, backend, ...(lengths && { lengths }) });
    check(relativeError(y, golden.y), name);
    model.dispose();
  });

  test.for([true, false])("embeddings in place of ids (projected: %s)", async (projected, context) => {
    needBackend(context, engine, backend);
    const golden = await loadLrnnx("cls_03_tokens_proj_max_mean_lengths");
    const { batch, lengths } = golden;
    const name = "embedding.token_embedding.weight";
    const checkpoint = new Map(golden.checkpoint);
    const own = (checkpoint.get("embed_proj.weight") as Tensor).shape[1] as number;
    let table = checkpoint.get(name) as Tensor;
    if (!projected) {
      const width = (checkpoint.get("final_block.lrnn.D") as Tensor).shape[0] as number;
      table = { dtype: "F32", shape: [20, width], data: floats(20 * width, 1) };
      checkpoint.set(name, table);
      for (const part of ["weight", "bias"]) checkpoint.delete(`embed_proj.${part}`);
    }
    const width = table.shape[1] as number;
    expect(projected ? own : width).toBe(width);
    const ids = (golden.x as Int32Array).map((id) => id % (table.shape[0] as number));
    const x = Float32Array.from({ length: ids.length * width }, (_, i) => {
      return table.data[(ids[Math.floor(i / width)] as number) * width + (i % width)] as number;
    });
    const bytes = writeSafetensors(checkpoint);
    const model = await engine.model(bytes, { ...golden.spec, embedded: true });
    expect([model.inputWidth, model.vocabulary]).toEqual([width, undefined]);
    const options = { batch, backend, ...(lengths && { lengths }) };
    const { y } = await model.forward(x, options);
    const reads = await engine.model(bytes, golden.spec);
    check(relativeError(y, (await reads.forward(ids, options)).y), "of ids");
    if (projected) check(relativeError(y, golden.y), "the source's own");
    // The table is not lost.
    expect(readSafetensors(writeModel(model)).tensors.get(name)?.data).toEqual(table.data);
    model.dispose();
    reads.dispose();
  });

  test.for([1, 2, 3, 4, 5, 6])("a classifier at random, ragged (%i)", async (seed, context) => {
    needBackend(context, engine, backend);
    const { checkpoint, spec, lengths, batch, seqLen, x } = randomClassifier(seed);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const { y } = await model.forward(x, { batch, lengths, backend });
    const expected = runNetwork(buildProgram(checkpoint, {}, spec), { x, batch, seqLen, lengths });
    check(relativeError(y, expected.y), JSON.stringify(spec));
    model.dispose();
  });

  test.for([1, 2, 3, 4])("a U-Net at random, ragged (%i)", async (seed, context) => {
    needBackend(context, engine, backend);
    const { checkpoint, spec, lengths, batch, seqLen, x } = randomUnet(seed);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const { y } = await model.forward(x, { batch, lengths, backend });
    const expected = runNetwork(buildProgram(checkpoint, {}, spec), { x, batch, seqLen, lengths });
    check(relativeError(y, expected.y), JSON.stringify(spec));
    model.dispose();
  });
});

test("two channels: what is lost of x by rounding it is more than the gate, whoever computes", async () => {
  // A layer norm over two channels divides by their difference, and U-Nets of three levels have 13 on the way.
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const errors: { ours: number; lost: number }[] = [];
  for (let seed = 2; seed < 22; seed++) {
    const { checkpoint, spec, lengths, batch, seqLen, x } = randomUnet(seed, { channels: 2, levels: 3 });
    const network = buildProgram(checkpoint, {}, spec);
    const model = await engine.model(writeSafetensors(checkpoint), spec);
    const { y } = await model.forward(x, { batch, lengths });
    const exact = runNetwork(network, { x, batch, seqLen, lengths }).y;
    const next = random(seed);
    const rounded = Float64Array.from(x, (v) => v * (1 + (next() < 0.5 ? 1 : -1) * 2 ** -24));
    const other = runNetwork(network, { x: rounded, batch, seqLen, lengths }).y;
    errors.push({ ours: relativeError(y, exact), lost: relativeError(other, exact) });
    model.dispose();
  }
  const sorted = (key: "ours" | "lost") => errors.map((error) => error[key]).sort((a, b) => a - b);
  const [ours, lost] = [sorted("ours"), sorted("lost")];
  const show = (values: number[]) => [values[10], values.at(-1)].map((v) => v?.toExponential(1)).join(", ");
  console.log(`two channels, median and worst: ${show(ours)}; x half an ulp off, in float64: ${show(lost)}`);
  expect(lost.at(-1)).toBeGreaterThan(1e-5);
  expect(ours[10]).toBeLessThan(1e-5);
  await engine.dispose();
});

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

    test("any threads, shared memory or not", async () => {
      const whole = await model.forward(x, { batch, lengths });
      for (const { name, engine } of engines) {
        const other = await engine.model(bytes, spec);
        const { y, state } = await other.forward(x, { batch, lengths });
        expectSameBits(y, whole.y, name);
        expectSameState([other, state], [model, whole.state], name);
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

  test("many segments: a sequence in two halves, and against the oracle", async () => {
    const seqLen = 90_001;
    const classifier = randomClassifier(2);
    const model = await first().model(writeSafetensors(classifier.checkpoint), classifier.spec);
    const x = floats(seqLen * model.inputWidth, 5);
    const seen: number[] = [];
    const whole = await model.forward(x, { onProgress: ({ done }) => seen.push(done) });
    expect(seen.length).toBeGreaterThan(1);
    expect(seen.at(-1)).toBe(seqLen);
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

describe("what it costs", () => {
  test("every part at its own rate, and a hop for each", () => {
    const dense = (src: number, inWidth: number): Stage => {
      const kernel = new Float32Array(2 * inWidth);
      return { kind: "dense", name: "", src, dst: 1, inWidth, outWidth: 2, kernel, bias: null };
    };
    const network = withRates({
      architecture: "by hand",
      slots: [2, 2, 4],
      stages: [
        dense(0, 2),
        { kind: "window", name: "", src: 1, dst: 1, mode: "mean", width: 2, factor: 4 },
        dense(1, 2),
        { kind: "reshape", name: "", src: 1, dst: 2, inWidth: 2, outWidth: 4 },
        dense(2, 4),
      ],
      output: 1,
    });
    expect(flopsPerToken(network)).toBe(8 + 12 + 8 / 4 + 16 / 8);
    expect(partsOf(network).map(flopsPerToken)).toEqual([8, 8, 16]);
    const hardware = { wasm, webgpu: undefined, unavailable: new Map() };
    const work = {
      ...{ batch: 1, seqLen: 1e6, flopsPerToken: 100, bytesIn: 4, bytesOut: 4, states: 0, dispatches: 3 },
    };
    const cost = (calls: number) => plan("forward", { ...work, calls }, hardware, ["wasm"])?.ms as number;
    expect((cost(6) - cost(1)) / (cost(2) - cost(1))).toBeCloseTo(5);
    expect(cost(2) - cost(1)).toBeGreaterThan(wasm.hopMs / 2);
  });

  const wasm = { threads: 2, threadsReason: undefined, threadsDemanded: true, hopMs: 3, flopsPerMs: 1e7 };
});
