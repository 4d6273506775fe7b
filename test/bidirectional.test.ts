/** A layer that reads from both ends: against the float64 reference reversed by hand, and bit for bit however it is run. */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { linearLimit } from "../src/engine/selfTest.js";
import { LinrecError } from "../src/errors.js";
import {
  createEngine,
  type Engine,
  fromLruParams,
  mergeConjugates,
  readSafetensors,
  type Tensor,
  writeModel,
  writeSafetensors,
} from "../src/index.js";
import { programOf } from "../src/lruParams.js";
import { joined } from "../src/models/directions.js";
import { BothWays } from "../src/networks/bothWays.js";
import { halvesOf } from "../src/networks/hidden.js";
import type { LruParams, Network, Program } from "../src/program.js";
import { ReferenceBackend, runReference } from "../src/reference.js";
import { State, stateLayout } from "../src/state.js";
import { expectSameBits } from "./support/bits.js";
import { paired, real } from "./support/conjugates.js";
import { builds, createEngines, type NamedEngine, needBackend } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { errorOf, expectLinrecError, wrong } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";
import { rows } from "./support/sequences.js";
import { useWatchedEngine } from "./support/watched-gpu.js";

/** The real tokens of each row from the last to the first; zeros past them. */
function reverse(values: ArrayLike<number>, lengths: readonly number[], seqLen: number, width: number) {
  const result = new Float64Array(values.length);
  for (const [row, length] of lengths.entries()) {
    for (let t = 0; t < length; t++) {
      for (let j = 0; j < width; j++) {
        result[(row * seqLen + t) * width + j] = values[
          (row * seqLen + length - 1 - t) * width + j
        ] as number;
      }
    }
  }
  return result;
}

const largest = (values: ArrayLike<number>) =>
  Array.from(values).reduce((a, b) => Math.max(a, Math.abs(b)), 0);

const cases = [
  { dModel: 1, dStates: [1, 1], seqLen: 1, lengths: [1] },
  { dModel: 3, dStates: [5, 9], seqLen: 97, lengths: [97, 0, 1, 48, 49] },
  { dModel: 17, dStates: [8, 3], seqLen: 211, lengths: [211, 100] },
  { dModel: 8, dStates: [4, 6], seqLen: 331, lengths: [50, 331, 288] },
  // Rows too long for the short way to copy them, and with padding.
  { dModel: 70, dStates: [3, 5], seqLen: 60, lengths: [60, 7] },
  // Real states run in halves: all of them one way, those but the first four the other.
  { dModel: 5, dStates: [16, 40], seqLen: 131, lengths: [131, 77], complex: [0, 4] },
] as const;

function problemOf({ dModel, dStates, seqLen, lengths, ...given }: (typeof cases)[number]) {
  const [forward, backward] = ([0, 1] as const).map((i) => {
    const params = hardParams(dModel, dStates[i], 3 + i);
    return "complex" in given ? real(params, given.complex[i]) : params;
  }) as [LruParams, LruParams];
  const x = floats(lengths.length * seqLen * dModel, 5);
  const integrationTimesteps = floats(lengths.length * seqLen, 6).map(Math.abs);
  return { forward, backward, x, integrationTimesteps };
}

/** y in float64 of both directions, and what it may be off by. */
function expectedOf(given: (typeof cases)[number], timed: boolean) {
  const { forward, backward, x, integrationTimesteps } = problemOf(given);
  const { dModel, seqLen, lengths } = given;
  const batch = lengths.length;
  const run = (params: LruParams, x: Float32Array, timesteps: Float32Array | undefined) => {
    const { y } = runReference(programOf(params, "lru"), { x, batch, seqLen, lengths, timesteps });
    return { y, limit: linearLimit(params, x, batch, seqLen, undefined, timesteps) * largest(y) };
  };
  const turn = (values: Float32Array, width: number) =>
    Float32Array.from(reverse(values, lengths, seqLen, width));
  const there = run(forward, x, timed ? integrationTimesteps : undefined);
  const back = run(backward, turn(x, dModel), timed ? turn(integrationTimesteps, 1) : undefined);
  const turned = reverse(back.y, lengths, seqLen, dModel);
  const y = there.y.map((value, i) => value + (turned[i] as number));
  return { y, limit: there.limit + back.limit + 2 ** -24 * largest(y) };
}

describe.each([
  { backend: "reference", threads: 0 },
  { backend: "wasm", threads: 0 },
  { backend: "wasm", threads: 2 },
  { backend: "webgpu", threads: 0 },
] as const)("$backend, $threads threads", ({ backend, threads }) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ backend: [backend, "reference"], threads });
  });
  afterAll(() => engine.dispose());

  test.for(cases)("%o", async (given, context) => {
    needBackend(context, engine, backend);
    const { forward, backward, x, integrationTimesteps } = problemOf(given);
    const layer = await engine.bidirectional({ forward, backward });
    for (const network of Object.values(layer.directions))
      expect(halvesOf(network) !== undefined).toBe("complex" in given);
    for (const timed of [false, true]) {
      const { y, limit } = expectedOf(given, timed);
      const { lengths } = given;
      const options = { batch: lengths.length, lengths, backend, ...(timed ? { integrationTimesteps } : {}) };
      const result = await layer.forward(x, options);
      expect(largest(y.map((value, i) => value - (result.y[i] as number)))).toBeLessThanOrEqual(limit);
    }
    layer.dispose();
  });
});

describe.each(builds)("%s SIMD", (build) => {
  let engines: NamedEngine[] = [];
  beforeAll(async () => {
    engines = await createEngines(build, [0, 1, 3], [0, 2]);
  });
  afterAll(() => Promise.all(engines.map((named) => named.engine.dispose())));

  test.each(cases.flatMap((given) => [false, true].map((timed) => ({ ...given, timed }))))(
    "reversed by hand, on any threads, in any order of rows: %o",
    async ({ timed, ...given }) => {
      const { forward, backward, x, integrationTimesteps: times } = problemOf(given);
      const at = (values: Float32Array) => (timed ? { integrationTimesteps: values } : {});
      const { dModel, seqLen, lengths } = given;
      const batch = lengths.length;
      const { engine } = engines[0] as NamedEngine;
      const [one, other] = [await engine.lru(forward), await engine.lru(backward)];
      const there = await one.forward(x, { batch, lengths, ...at(times) });
      const back = await other.forward(Float32Array.from(reverse(x, lengths, seqLen, dModel)), {
        batch,
        lengths,
        ...at(Float32Array.from(reverse(times, lengths, seqLen, 1))),
      });
      const turned = reverse(back.y, lengths, seqLen, dModel);
      const expected = there.y.map((value, i) => value + (turned[i] as number));
      for (const { name, engine } of engines) {
        const layer = await engine.bidirectional({ forward, backward });
        const out = new Float32Array(x.length).fill(7);
        const { y } = await layer.forward(x, { batch, lengths, out, ...at(times) });
        expect(y).toBe(out);
        expectSameBits(y, expected, name);
        const order = lengths.map((_, row) => (row + 1) % batch);
        const mixed = await layer.forward(rows(x, batch, order), {
          batch,
          lengths: order.map((row) => lengths[row] as number),
          ...at(rows(times, batch, order)),
        });
        expectSameBits(mixed.y, rows(expected, batch, order), `${name}, another order`);
        layer.dispose();
      }
    },
  );

  test.each([
    ["ragged", 30_011, [30_011, 0, 20_000, 29_999]],
    ["whole", 20_011, [20_011, 20_011, 20_011]],
    ["shorter", 20_011, [20_000, 7]],
    ["whole in one block, ragged in the other", 300, [...Array<number>(65).fill(300), 7]],
  ])(
    "through many windows and tiles, in the engine's memory and in any other: %s rows",
    async (_, seqLen, lengths) => {
      const dModel = 16;
      const [forward, backward] = [hardParams(dModel, 5, 1), hardParams(dModel, 4, 2)];
      const batch = lengths.length;
      const x = floats(batch * seqLen * dModel, 8);
      const { engine } = engines[0] as NamedEngine;
      const one = await (await engine.lru(forward)).forward(x, { batch, lengths });
      const turned = Float32Array.from(reverse(x, lengths, seqLen, dModel));
      const other = await (await engine.lru(backward)).forward(turned, { batch, lengths });
      const back = reverse(other.y, lengths, seqLen, dModel);
      const expected = one.y.map((value, i) => value + (back[i] as number));
      for (const { name, engine } of engines) {
        const layer = await engine.bidirectional({ forward, backward });
        const [own, out] = [engine.allocate(x.length), engine.allocate(x.length)];
        own.set(x);
        for (const [i, given] of [x, own].entries()) {
          const what = `${name}, x ${i ? "" : "not "}in its memory, y`;
          expectSameBits((await layer.forward(given, { batch, lengths })).y, expected, `${what} not`);
          expect((await layer.forward(given, { batch, lengths, out: out.fill(7) })).y).toBe(out);
          expectSameBits(out, expected, `${what} too`);
        }
        for (const array of [own, out]) engine.free(array);
        layer.dispose();
      }
    },
  );

  test("what a layer took of the engine's memory is free when it is gone", async () => {
    const { engine } = engines[0] as NamedEngine;
    const sizes = [];
    for (let i = 0; i < 4; i++) {
      const params = hardParams(300, 300, 1); // a MiB and more for each direction
      const layer = await engine.bidirectional({ forward: params, backward: params });
      await layer.forward(floats(300 * 9, 1));
      layer.dispose();
      await new Promise((resolve) => setTimeout(resolve)); // in which runners are disposed of
      sizes.push(engine.allocate(1).buffer.byteLength);
    }
    expect(new Set(sizes.slice(1)).size, String(sizes)).toBe(1);
  });

  test("from pairs of conjugate states", async () => {
    const params = paired(hardParams(5, 4, 3), "another C");
    const x = floats(5 * 200, 8);
    const { engine } = engines[0] as NamedEngine;
    const [whole, merged] = [params, mergeConjugates(params)].map((backward) =>
      engine.bidirectional({ forward: params, backward }),
    );
    expectSameBits(
      (await (await whole)?.forward(x))?.y as Float32Array,
      (await (await merged)?.forward(x))?.y as Float32Array,
      "y",
    );
  });

  test("documents that resets part = each by itself", async () => {
    const { engine } = engines[0] as NamedEngine;
    const [dModel, seqLen, lengths] = [3, 120, [120, 77]];
    const layer = await engine.bidirectional({
      forward: hardParams(dModel, 5, 1),
      backward: hardParams(dModel, 4, 2),
    });
    const x = floats(2 * seqLen * dModel, 3);
    const starts = [
      [0, 1, 50, 51, 119],
      [40, 76, 77, 100],
    ];
    const reset = starts.flatMap((at) => Array.from({ length: seqLen }, (_, t) => at.includes(t)));
    const { y } = await layer.forward(x, { batch: 2, lengths, reset });
    for (const [row, length] of lengths.entries()) {
      const cuts = [...new Set([0, ...(starts[row] as number[]).filter((t) => t < length), length])];
      for (const [i, from] of cuts.slice(0, -1).entries()) {
        const [a, b] = [from, cuts[i + 1] as number].map((t) => (row * seqLen + t) * dModel);
        const alone = await layer.forward(x.slice(a, b));
        expectSameBits(y.slice(a, b), alone.y, `row ${row} from ${from}`);
      }
    }
    layer.dispose();
  });

  test("progress goes up to the end", async () => {
    const { engine } = engines[0] as NamedEngine;
    const params = hardParams(4, 4, 1);
    const layer = await engine.bidirectional({ forward: params, backward: params });
    const done: number[] = [];
    const onProgress = (progress: { done: number; total: number }) => {
      expect(progress.total).toBe(300);
      done.push(progress.done);
    };
    await layer.forward(floats(1200, 1), { batch: 3, onProgress });
    expect(done).toEqual([...done].sort((a, b) => a - b));
    expect(done.at(-1)).toBe(300);
    layer.dispose();
  });
});

describe("on a GPU", () => {
  const { gpuTest } = useWatchedEngine();

  const [dModel, seqLen, lengths] = [6, 200, [200, 1, 133]];
  const forward = hardParams(dModel, 5, 1);
  // One direction's angles are logarithms.
  const { theta, ...rest } = hardParams(dModel, 70, 2);
  const thetaLog = (theta as Float32Array).map((angle) => Math.log(Math.abs(angle) + 0.1));
  const backward: LruParams = { ...rest, thetaLog };
  const x = floats(lengths.length * seqLen * dModel, 3);
  const reset = Array.from({ length: lengths.length * seqLen }, (_, i) => i % 90 === 40 || i % 90 === 41);
  const options = { batch: lengths.length, lengths };
  const onCpu = async (resets: object) => {
    const cpu = await createEngine({ backend: "wasm", threads: 0 });
    const { y } = await (await cpu.bidirectional({ forward, backward })).forward(x, {
      ...options,
      ...resets,
    });
    await cpu.dispose();
    return y;
  };

  for (const resets of [{}, { reset }])
    gpuTest(
      `one submit, x up once and y down once (resets: ${"reset" in resets})`,
      async ({ engine, traffic }) => {
        const layer = await engine.bidirectional({ forward, backward });
        await layer.forward(x, options); // the first makes room
        const before = { ...traffic };
        const { y } = await layer.forward(x, { ...options, ...resets });
        expect(traffic.submits - before.submits).toBe(1);
        // The real tokens, and of each row its states and tables.
        const tokens = 4 * dModel * lengths.reduce((sum, length) => sum + length);
        expect(traffic.up - before.up).toBeLessThan(tokens + lengths.length * 1000);
        expect(traffic.down - before.down).toBeLessThan(tokens + lengths.length * 1000);
        expect(relativeError(y, await onCpu(resets))).toBeLessThan(5e-6);
        layer.dispose();
      },
    );

  test("what it cannot take as one is read once for each direction", async () => {
    const reference = new ReferenceBackend();
    const refuse = vi.fn(() => Promise.reject(new LinrecError("unsupported", "too long")));
    const program = joined(programOf(forward, "lru"), programOf(backward, "lru"));
    const prepare = async (part: Network) =>
      part === program ? { forward: refuse, dispose() {} } : reference.prepare(part as Program);
    const runner = new BothWays({ name: "webgpu", prepare, dispose() {} }, program, prepare);
    const y = new Float32Array(x.length).fill(7);
    const state = new State(stateLayout(program), lengths.length);
    const own = {
      batch: lengths.length,
      seqLen,
      lengths: Int32Array.from(lengths),
      x,
      y,
      state,
      threads: 0,
    };
    await runner.forward({ ...own, signal: undefined, onProgress: undefined });
    expect(refuse).toHaveBeenCalledOnce();
    expect(relativeError(y, await onCpu({}))).toBeLessThan(5e-6);
    runner.dispose();
  });
});

test("as a file: the tensors of both directions, and back, bit for bit", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const [forward, backward] = [hardParams(4, 5, 1), hardParams(4, 7, 2)];
  const layer = await engine.bidirectional({ forward, backward });
  const bytes = writeModel(layer, { metadata: { format: "pt" } });
  const { tensors, metadata } = readSafetensors(bytes);
  expect(metadata["format"]).toBe("pt");
  for (const [name, params] of Object.entries({ forward, backward })) {
    for (const [own, tensor] of fromLruParams(params, `${name}.`)) expect(tensors.get(own)).toEqual(tensor);
  }
  expect(tensors.size).toBe(16);
  const again = await engine.bidirectional(bytes);
  expectSameBits(writeModel(again), bytes, "written twice");
  const x = floats(4 * 60, 3);
  expectSameBits((await again.forward(x)).y, (await layer.forward(x)).y, "y");
  // Of a file with other dtypes and spellings, too.
  const half: Tensor = { dtype: "F16", shape: [4], data: Uint16Array.of(0x3c00, 0, 0x8000, 0xb555) };
  const other = new Map([...tensors].map(([name, tensor]) => [name.replace(".", ".seq/"), tensor]));
  other.set("backward.seq/D", half);
  const third = await engine.bidirectional(writeSafetensors(other));
  expect(readSafetensors(writeModel(third)).tensors).toEqual(
    readSafetensors(writeSafetensors(other)).tensors,
  );
  expectLinrecError(await errorOf(() => engine.lru(bytes)), "unknown-model", /engine\.bidirectional/);
  expectLinrecError(await errorOf(() => engine.model(bytes)), "unknown-model", /engine\.bidirectional/);
  tensors.set("sideways.D", tensors.get("forward.D") as Tensor);
  expectLinrecError(
    await errorOf(() => engine.bidirectional(writeSafetensors(tensors))),
    "unknown-model",
    /sideways\.D is under neither/,
  );
  await engine.dispose();
});

test("its size and its backend are those of a layer, and `await using` disposes of it", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const forward = hardParams(3, 4, 1);
  const layer = await engine.bidirectional({ forward, backward: hardParams(3, 6, 2) });
  expect([layer.dModel, layer.backend]).toEqual([3, "wasm"]);
  await layer[Symbol.asyncDispose]();
  expectLinrecError(await errorOf(() => layer.forward(new Float32Array(3))), "disposed", /disposed of/);
  await engine.dispose();
});

test("what it cannot do, and what it will not take", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const params = hardParams(4, 4, 1);
  const layer = await engine.bidirectional({ forward: params, backward: hardParams(4, 6, 1) });
  const x = floats(40, 1);
  const { state } = await (await engine.lru(params)).forward(x);
  for (const call of [
    () => layer.step(),
    () => layer.stepSync(),
    () => layer.allocateInferenceCache(),
    () => layer.explain(wrong("step")),
    () => layer.forward(x, wrong({ state })),
    () => layer.forward(x, wrong({ every: 2 })),
  ]) {
    expectLinrecError(await errorOf(call), "unsupported", /bidirectional layer has no .*whole sequence/);
  }
  expectLinrecError(
    await errorOf(() => layer.forward(x, wrong({ lenghts: [1] }))),
    "invalid-argument",
    /"lenghts"/,
  );
  expectLinrecError(await errorOf(() => layer.forward(x, wrong(null))), "invalid-argument", /object/);
  expectLinrecError(await errorOf(() => layer.forward(x, { batch: 3 })), "shape-mismatch", /batch/);
  expectLinrecError(
    await errorOf(() => engine.bidirectional({ forward: params, backward: hardParams(5, 4, 1) })),
    "shape-mismatch",
    /dModel 4, backward 5/,
  );
  expectLinrecError(
    await errorOf(() => engine.bidirectional(wrong({ forward: params }))),
    "invalid-argument",
    /LruParams/,
  );
  expect(layer.inspect().backward.radius.length).toBe(6);
  expect([layer.inputWidth, layer.outputWidth]).toEqual([layer.dModel, layer.dModel]);
  expect(layer.explain("forward", { seqLen: 100 }).backend).toBe("wasm");
  layer.dispose();
  expectLinrecError(await errorOf(() => layer.forward(x)), "disposed", /disposed/);
  await engine.dispose();
});
