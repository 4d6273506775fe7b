/** Token ids as input: an embedding in front, on every backend, against the same program fed with the table's rows. */
import { describe, expect, type TestContext, test } from "vitest";
import type { Host, Prepared } from "../src/engine/host.js";
import { Model } from "../src/models/model.js";
import type { Program, Stage } from "../src/program.js";
import { runReference } from "../src/reference.js";
import { stateLayout } from "../src/state.js";
import { expectSameBits } from "./support/bits.js";
import { relativeError } from "./support/golden.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams, random } from "./support/problems.js";
import { opened, runWay, ways } from "./support/ways.js";

const [vocabulary, width, dState] = [11, 6, 5];
const table = floats(vocabulary * width, 1);

/** table[ids] -> lru, or the lru alone. */
function program(withIds: boolean): Program {
  const params = hardParams(width, dState, 2);
  const embedding: Stage = { kind: "embedding", name: "embedding", src: 0, dst: 1, width, vocabulary, table };
  const lru: Stage = { kind: "lru", name: "lru", src: 1, dst: 2, dModel: width, dState, params };
  return withIds
    ? { architecture: "ids", slots: [1, width, width], stages: [embedding, lru], output: 2 }
    : { architecture: "rows", slots: [width, width], stages: [{ ...lru, src: 0, dst: 1 }], output: 1 };
}

function idsOf(length: number, seed: number): Int32Array<ArrayBuffer> {
  const next = random(seed);
  return Int32Array.from({ length }, (_, i) =>
    i < 2 ? i * (vocabulary - 1) : Math.floor(vocabulary * next()),
  );
}

const rowsOf = (ids: Int32Array) =>
  Float32Array.from({ length: ids.length * width }, (_, i) => {
    return table[(ids[Math.floor(i / width)] as number) * width + (i % width)] as number;
  });

describe.each(ways)("$name", (way) => {
  const { threads, isGpu } = way;
  const backendOf = opened(way);

  test.for([1, 5, 47, 49, 4100])(
    "reads rows of the table, %i tokens",
    async (seqLen, context: TestContext) => {
      const backend = backendOf(context);
      const batch = 3;
      const ids = idsOf(batch * seqLen, seqLen);
      const lengths = Int32Array.of(seqLen, Math.max(1, seqLen - 3), 1);
      const rows = rowsOf(ids);
      // What lies past a row's length is not read, whatever it is.
      ids.fill(-1, 2 * seqLen + 1);
      const bits = new Float32Array(ids.buffer);
      const actual = await runWay(backend, threads, program(true), bits, batch, seqLen, lengths);
      const expected = await runWay(backend, threads, program(false), rows, batch, seqLen, lengths);
      expectSameBits(actual.y, expected.y, "y");
      expectSameBits(actual.state.bytes, expected.state.bytes, "state");
      const oracle = runReference(program(true), { x: ids, batch, seqLen, lengths });
      if (isGpu) expect(relativeError(actual.y, oracle.y)).toBeLessThanOrEqual(1e-5);
    },
  );
});

describe("a model that reads ids", () => {
  const reads = program(true);
  /** An engine that has nothing but the reference. */
  const host: Host = {
    nonFinite: "reject",
    checkUsable: () => undefined,
    plan: () => ({ backend: "reference" }) as never,
    async forward(_, job) {
      const { y, state } = runReference(reads, job);
      job.y.set(y);
      job.state.copyFrom(state);
    },
    gpuCache: () => Promise.reject(new Error("no GPU")),
    release: () => undefined,
  };
  const stepper: Prepared["stepper"] = {
    step(x, y, state) {
      const result = runReference(reads, { x, batch: state.batch, seqLen: 1, state });
      y.set(result.y);
      state.copyFrom(result.state);
    },
  };
  const model = new Model(host, {
    program: reads,
    runners: new Map(),
    stepper,
    underWay: new Map(),
    layout: stateLayout(reads),
  });

  test("forward, step and stepSync take an Int32Array", async () => {
    const ids = idsOf(2 * 7, 3);
    const { y } = await model.forward(ids, { batch: 2 });
    expect(model.vocabulary).toBe(vocabulary);
    expect([...y]).toEqual([...Float32Array.from(runReference(reads, { x: ids, batch: 2, seqLen: 7 }).y)]);
    const cache = model.allocateInferenceCache(2);
    for (let t = 0; t < 7; t++) {
      const xt = Int32Array.of(ids[t] as number, ids[7 + t] as number);
      const yt = t % 2 ? model.stepSync(xt, cache) : await model.step(xt, cache);
      for (const row of [0, 1])
        expectSameBits(
          yt.subarray(row * width, (row + 1) * width),
          y.subarray((row * 7 + t) * width, (row * 7 + t + 1) * width),
          `step ${t}`,
        );
    }
  });

  test("forwardStream takes ids, and their bytes, cut anywhere", async () => {
    const ids = idsOf(7, 4);
    const { y } = await model.forward(ids);
    const bytes = new Uint8Array(ids.buffer);
    for (const chunks of [[ids], [bytes.subarray(0, 9), bytes.subarray(9)]]) {
      let tokens = 0;
      for await (const piece of model.forwardStream(chunks)) {
        expectSameBits(
          piece.y,
          y.subarray(tokens * width, tokens * width + piece.y.length),
          `from ${tokens}`,
        );
        tokens += piece.y.length / width;
      }
      expect(tokens).toBe(7);
    }
    const floats = model.forwardStream([Float32Array.of(1)]).next();
    expectLinrecError(await errorOf(() => floats), "wrong-dtype", /an Int32Array.*got Float32Array/);
  });

  test.each([
    ["floats", Float32Array.of(1, 2), "wrong-dtype", /an Int32Array of token ids; got Float32Array/],
    [
      "an id past the end",
      Int32Array.of(0, 11, 0, 0),
      "invalid-argument",
      /\[1\] \(row 0, token 1\) is 11; token ids are 0 to 10/,
    ],
    ["a negative id", Int32Array.of(0, 0, 0, -1), "invalid-argument", /\[3\] \(row \d, token \d\) is -1/],
  ] as const)("refuses %s", async (_, x, code, says) => {
    const out = new Float32Array(x.length * width).fill(7);
    const cache = model.allocateInferenceCache(x.length);
    const before = model.serializeState(cache);
    expectLinrecError(await errorOf(() => model.forward(x as Int32Array, { batch: 2, out })), code, says);
    expectLinrecError(await errorOf(() => model.stepSync(x as Int32Array, cache, { out })), code, /xt/);
    expectLinrecError(await errorOf(() => model.step(x as Int32Array, cache)), code, /xt/);
    expect([...out]).toEqual(new Array(out.length).fill(7));
    expect(model.serializeState(cache)).toEqual(before);
  });

  test("ids past a row's length may be anything", async () => {
    const padded = await model.forward(Int32Array.of(3, 4, 5, 6, -1, 99), { batch: 2, lengths: [3, 1] });
    const whole = await model.forward(Int32Array.of(3, 4, 5, 6, 0, 0), { batch: 2, lengths: [3, 1] });
    expectSameBits(padded.y, whole.y, "y");
  });
});
