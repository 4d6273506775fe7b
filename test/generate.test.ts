/** From prompts to tokens: the language model's generate, and the bare layer's. */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { modelStages } from "../src/cpu/stages.js";
import {
  createEngine,
  type Engine,
  type GenerateOptions,
  type Model,
  writeSafetensors,
} from "../src/index.js";
import type { DenseStage } from "../src/program.js";
import { macrotask } from "../src/runtime/macrotask.js";
import { show } from "../src/validate.js";
import { expectSameBits } from "./support/bits.js";
import { builds, createEngines, needBackend } from "./support/engines.js";
import { loadGolden } from "./support/golden.js";
import { errorOf, expectLinrecError, wrong } from "./support/misuse.js";
import { floats, hardParams, random } from "./support/problems.js";

const original = modelStages.run;
const width = 40;
let bytes: Uint8Array<ArrayBuffer>;
let engine: Engine;
let model: Model;

beforeAll(async () => {
  bytes = writeSafetensors((await loadGolden("lm_05_untied_rms_6layer")).checkpoint);
  engine = await createEngine({ backend: "wasm", threads: 0 });
  model = await engine.model(bytes);
});
afterAll(() => engine.dispose());

function idsOf(length: number, seed: number): Int32Array {
  const next = random(seed);
  return Int32Array.from({ length }, () => Math.floor(width * next()));
}

async function collect(tokens: AsyncIterable<Int32Array>): Promise<number[][]> {
  const result: number[][] = [];
  for await (const ids of tokens) result.push([...ids]);
  return result;
}

const column = (tokens: number[][], row: number) => tokens.map((ids) => ids[row]);

/** Token by token, with nothing but stepSync. */
function greedily(on: Model, prompt: Int32Array, tokens: number): number[] {
  const cache = on.allocateInferenceCache();
  let logits = new Float32Array();
  for (const id of prompt) logits = on.stepSync(Int32Array.of(id), cache) as Float32Array<ArrayBuffer>;
  return Array.from({ length: tokens }, () => {
    const id = logits.indexOf(Math.max(...logits));
    logits = on.stepSync(Int32Array.of(id), cache) as Float32Array<ArrayBuffer>;
    return id;
  });
}

describe("generate", () => {
  test("takes the likeliest token, as a loop of steps would", async () => {
    const prompt = idsOf(13, 1);
    const tokens = await collect(model.generate(prompt, { maxTokens: 50 }));
    expect(column(tokens, 0)).toEqual(greedily(model, prompt, 50));
  });

  test("reads prompts of different lengths, each stream as if it were alone", async () => {
    const [batch, seqLen, lengths] = [4, 60, [60, 1, 49, 7]];
    const prompts = idsOf(batch * seqLen, 2);
    for (const row of [1, 2, 3])
      prompts.fill(-1, row * seqLen + (lengths[row] as number), (row + 1) * seqLen);
    const options: GenerateOptions = { maxTokens: 30, temperature: 1.5, topK: 20, topP: 0.95, seed: 9 };
    const together = await collect(model.generate(prompts, { ...options, batch, lengths }));
    for (let row = 0; row < batch; row++) {
      const prompt = prompts.subarray(row * seqLen, row * seqLen + (lengths[row] as number));
      const alone = await collect(model.generate(prompt, { ...options, seed: 9 + row }));
      expect(column(together, row)).toEqual(column(alone, 0));
    }
  });

  test.each(builds)(
    "computes the logits of a prompt for the last token of each row alone (%s)",
    async (simd) => {
      const [batch, seqLen, lengths] = [3, 500, [500, 1, 333]];
      const prompts = idsOf(batch * seqLen, 3);
      const onThread = await createEngine({ backend: "wasm", simd, threads: 0 });
      const counted = await onThread.model(bytes);
      const head = counted.program.stages.at(-1) as DenseStage;
      let flops = 0;
      const run = vi.spyOn(modelStages, "run").mockImplementation((slots, stage) => {
        if (stage.kind === "dense") flops += 2 * slots.rows * stage.inWidth * stage.outWidth;
        original(slots, stage);
      });
      try {
        const row = 2 * head.inWidth * width; // the head is the only dense stage
        const { value: ids } = await counted.generate(prompts, { batch, lengths }).next();
        expect(flops).toBe(batch * row);
        const all = await counted.forward(prompts, { batch, lengths });
        expect(flops).toBe((batch + 834) * row);
        const likeliest = lengths.map((length, row) => {
          const from = (row * seqLen + length - 1) * width;
          const logits = all.y.subarray(from, from + width);
          return logits.indexOf(Math.max(...logits));
        });
        expect([...(ids as Int32Array)]).toEqual(likeliest);
      } finally {
        run.mockRestore();
        await onThread.dispose();
      }
    },
  );

  test("the same seed gives the same tokens on every CPU mode and another seed others", async () => {
    const prompts = idsOf(3 * 100, 4);
    const options: GenerateOptions = { batch: 3, maxTokens: 40, temperature: 2, topP: 0.9, seed: 5 };
    for (const build of builds) {
      const results: number[][][] = [];
      for (const named of await createEngines(build, [0, 1, 2], [2])) {
        results.push(await collect((await named.engine.model(bytes)).generate(prompts, options)));
        await named.engine.dispose();
      }
      for (const result of results) expect(result).toEqual(results[0]);
      expect(await collect(model.generate(prompts, { ...options, seed: 100 }))).not.toEqual(results[0]);
    }
  });

  test.for(["webgpu", "reference"] as const)("runs on %s too", async (backend, context) => {
    const other = await createEngine({ backend: [backend, "reference"] });
    needBackend(context, other, backend);
    const prompts = idsOf(2 * 9, 12);
    const tokens = await collect((await other.model(bytes)).generate(prompts, { batch: 2, maxTokens: 12 }));
    // Of random weights, whose likeliest tokens are far enough apart for rounding not to matter.
    for (const row of [0, 1])
      expect(column(tokens, row)).toEqual(greedily(model, prompts.subarray(9 * row, 9 * row + 9), 12));
    await other.dispose();
  });

  test("stop ends each stream with its own token, and the last one ends it all", async () => {
    const prompts = idsOf(2 * 9, 6);
    const free = await collect(model.generate(prompts, { batch: 2, maxTokens: 20, temperature: 3 }));
    const [a, b] = [free[3]?.[0] as number, free[7]?.[1] as number];
    const ends = [column(free, 0).indexOf(a), column(free, 1).indexOf(b)];
    const stopped = await collect(
      model.generate(prompts, { batch: 2, maxTokens: 20, temperature: 3, stop: [[a], [b]] }),
    );
    expect(stopped.length).toBe(1 + Math.max(...ends));
    for (const row of [0, 1]) {
      const end = ends[row] as number;
      const expected = column(free, row).map((id, n) => (n <= end ? id : -1));
      expect(column(stopped, row)).toEqual(expected.slice(0, stopped.length));
    }
    const both = await collect(
      model.generate(prompts, { batch: 2, maxTokens: 20, temperature: 3, stop: [a, b] }),
    );
    expect(both.length).toBeLessThanOrEqual(stopped.length);
  });

  test("goes on from a state, which stays as it was", async () => {
    const prompt = idsOf(30, 7);
    const whole = await collect(model.generate(prompt, { maxTokens: 10 }));
    const { state } = await model.forward(prompt.subarray(0, 20));
    const before = model.serializeState(state);
    const rest = await collect(model.generate(prompt.subarray(20), { maxTokens: 10, state }));
    expect(rest).toEqual(whole);
    expectSameBits(model.serializeState(state), before, "state");
  });

  test("reads its state and its options at the call", async () => {
    const prompt = idsOf(30, 13);
    const { state } = await model.forward(prompt);
    const options: GenerateOptions = { maxTokens: 10, temperature: 3 };
    const expected = await collect(model.generate(prompt, { ...options, state: state.clone() }));
    const ends = column(expected, 0) as number[];
    const stop: number[] = [];
    const tokens = model.generate(prompt, { ...options, state, stop });
    model.stepSync(idsOf(1, 14), state);
    stop.push(...ends);
    expect(await collect(tokens)).toEqual(expected);
  });

  test("keeps to ids below `vocabulary`, and to maxTokens", async () => {
    const tokens = await collect(
      model.generate(idsOf(4, 8), { temperature: 50, vocabulary: 3, maxTokens: 60 }),
    );
    expect(tokens.length).toBe(60);
    expect(new Set(tokens.flat())).toEqual(new Set([0, 1, 2]));
    expect(await collect(model.generate(idsOf(4, 8), { maxTokens: 0 }))).toEqual([]);
  });

  test("stops at a signal, and a prompt that is changed meanwhile is not read again", async () => {
    const controller = new AbortController();
    const prompt = idsOf(5, 9);
    const expected = greedily(model, prompt, 3);
    const tokens = model.generate(prompt, { maxTokens: 1000, signal: controller.signal });
    prompt.fill(0);
    const seen: number[] = [];
    const error = await errorOf(async () => {
      for await (const [id] of tokens) {
        seen.push(id as number);
        if (seen.length === 3) controller.abort();
      }
    });
    expectLinrecError(error, "aborted", /AbortSignal/);
    expect(seen).toEqual(expected);
  });

  test("hears a signal while it reads the prompt, and between tokens what comes from outside", async () => {
    const before = model.generate(idsOf(5, 9), { signal: AbortSignal.abort() });
    expectLinrecError(await errorOf(() => before.next()), "aborted", /AbortSignal/);

    const controller = new AbortController();
    let now = performance.now();
    const clock = vi.spyOn(performance, "now").mockImplementation(() => ++now);
    macrotask().then(() => controller.abort());
    const tokens = model.generate(idsOf(5, 9), { maxTokens: 1000, signal: controller.signal });
    expectLinrecError(await errorOf(() => collect(tokens)), "aborted", /AbortSignal/);
    clock.mockRestore();
  });

  const refused: [string, "invalid-argument" | "wrong-dtype" | "shape-mismatch", RegExp, () => unknown][] = [
    [
      "an option that is none",
      "invalid-argument",
      /no option "top_k"/,
      () => model.generate(idsOf(3, 1), wrong({ top_k: 3 })),
    ],
    ["floats", "wrong-dtype", /Int32Array/, () => model.generate(wrong(floats(3, 1)))],
    ["an id that is none", "invalid-argument", /x\[1\] .* is 40/, () => model.generate(Int32Array.of(1, 40))],
    ["no prompt", "invalid-argument", /row 0 has no token/, () => model.generate(new Int32Array())],
    [
      "an empty prompt",
      "invalid-argument",
      /row 1 has no token/,
      () => model.generate(idsOf(6, 1), { batch: 2, lengths: [3, 0] }),
    ],
    [
      "a batch that does not fit",
      "shape-mismatch",
      /multiple of 2/,
      () => model.generate(idsOf(5, 1), { batch: 2 }),
    ],
    [
      "a temperature below 0",
      "invalid-argument",
      /temperature/,
      () => model.generate(idsOf(3, 1), { temperature: -1 }),
    ],
    ["topP 0", "invalid-argument", /topP/, () => model.generate(idsOf(3, 1), { topP: 0 })],
    ["topK 0", "invalid-argument", /topK/, () => model.generate(idsOf(3, 1), { topK: 0 })],
    [
      "a vocabulary that is too large",
      "invalid-argument",
      /40 logits/,
      () => model.generate(idsOf(3, 1), { vocabulary: 41 }),
    ],
    ...(["0.5", 1n, null, [], true] as const).flatMap((value): typeof refused => [
      [
        `the temperature ${show(value)}, of type ${typeof value}`,
        "invalid-argument",
        /temperature must be a number.*; got ("0.5"|1n|null|Array|true)\./,
        () => model.generate(idsOf(3, 1), { temperature: wrong(value) }),
      ],
      [
        `the topP ${show(value)}, of type ${typeof value}`,
        "invalid-argument",
        /topP must be a number.*; got ("0.5"|1n|null|Array|true)\./,
        () => model.generate(idsOf(3, 1), { topP: wrong(value) }),
      ],
    ]),
    [
      "a signal that is none",
      "invalid-argument",
      /signal must be an AbortSignal; got number/,
      () => model.generate(idsOf(3, 1), { signal: wrong(5) }),
    ],
    [
      "a state of two rows",
      "shape-mismatch",
      /state has 2 rows/,
      () => model.generate(idsOf(3, 1), { batch: 1, state: model.allocateInferenceCache(2) }),
    ],
    [
      "a stop that is no id",
      "invalid-argument",
      /stop must be/,
      () => model.generate(idsOf(3, 1), { stop: [40] }),
    ],
    [
      "stop lists for other rows",
      "invalid-argument",
      /each of 1 rows/,
      () => model.generate(idsOf(3, 1), { stop: [[1], [2]] }),
    ],
    [
      "a stop that is no list",
      "invalid-argument",
      /stop must be/,
      () => model.generate(idsOf(3, 1), { stop: wrong("x") }),
    ],
  ];
  test.each(refused)("refuses %s", async (_, code, says, call) => {
    expectLinrecError(await errorOf(call), code, says);
  });

  test("refuses a state that a step is advancing, at the call", async () => {
    const state = model.allocateInferenceCache();
    const steps = model.stepMany(idsOf(100, 1), state);
    expectLinrecError(await errorOf(() => model.generate(idsOf(3, 1), { state })), "cache-busy", /Await it/);
    await steps;
  });

  test("is not for models without ids or logits", async () => {
    const { checkpoint, spec } = await loadGolden("ml_seq_01_prenorm");
    const other = await engine.model(writeSafetensors(checkpoint), spec);
    expectLinrecError(
      await errorOf(() => other.generate(Int32Array.of(1))),
      "unsupported",
      /cannot generate/,
    );
  });
});

test("a bare layer's generate feeds y back as x", async () => {
  const lru = await engine.lru(hardParams(5, 7, 1));
  const [batch, steps] = [3, 6];
  const x0 = floats(batch * 5, 1);
  const y = lru.generate(x0, steps);
  let [cache, x] = [lru.allocateInferenceCache(batch), x0];
  for (let t = 0; t < steps; t++) {
    x = lru.stepSync(x, cache);
    for (let row = 0; row < batch; row++) {
      const at = (row * steps + t) * 5;
      expectSameBits(y.subarray(at, at + 5), x.subarray(row * 5, row * 5 + 5), `row ${row}, step ${t}`);
    }
  }
  expectLinrecError(await errorOf(() => lru.generate(floats(7, 1), 2)), "invalid-argument", /batch/);
  expectLinrecError(await errorOf(() => lru.generate(wrong(null), 1)), "wrong-dtype", /x0 .* got null/);
  expectLinrecError(
    await errorOf(() => lru.generate(x0, 2 ** 45)),
    "out-of-memory",
    /for y .*smaller pieces/,
  );
});
