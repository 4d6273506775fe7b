/** forwardStream: one forward over chunks as they come, on the CPU bit for bit, wherever they are cut. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEngine,
  type Engine,
  type ForwardResult,
  type Lru,
  type LruCache,
  type Model,
  type StreamChunk,
  type StreamSource,
  writeSafetensors,
} from "../src/index.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { collect, readable } from "./support/chunks.js";
import { builds, createEngines, needBackend } from "./support/engines.js";
import { loadGolden, relativeError } from "./support/golden.js";
import { floats, hardParams, random } from "./support/problems.js";
import { join } from "./support/sequences.js";

const [dModel, dState, seqLen] = [3, 5, 311];

let engine: Engine;
let lru: Lru;
const x = floats(seqLen * dModel, 1);
const bytes = new Uint8Array(x.buffer as ArrayBuffer);
let whole: ForwardResult<LruCache>;

beforeAll(async () => {
  engine = await createEngine({ backend: "wasm", threads: 2 });
  lru = await engine.lru(hardParams(dModel, dState, 1));
  whole = await lru.forward(x);
});
afterAll(() => engine.dispose());

function expectWhole(results: ForwardResult<LruCache>[], what: string): void {
  const pieces = results.map(({ y }) => y);
  expectSameBits(join(pieces, 1), whole.y, what);
  expectSameState([lru, results.at(-1)?.state as LruCache], [lru, whole.state], what);
}

/** The bytes of x in pieces of the given sizes, over and over. */
function* pieces(sizes: readonly number[], of = bytes): Generator<Uint8Array> {
  for (let at = 0, i = 0; at < of.length; i++) {
    const size = sizes[i % sizes.length] as number;
    yield of.slice(at, at + size);
    at += size;
  }
}

async function* slowly(chunks: Iterable<StreamChunk>): AsyncGenerator<StreamChunk> {
  for (const chunk of chunks) {
    await Promise.resolve();
    yield chunk;
  }
}

describe("exact, wherever it is cut", () => {
  test("in chunks of any numbers of bytes, on windows of any number of tokens", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 997 }), { minLength: 1, maxLength: 7 }),
        fc.option(fc.integer({ min: 1, max: 400 }), { nil: undefined }),
        async (sizes, tokens) => {
          const results = await collect(lru.forwardStream(pieces(sizes), { tokens }));
          expectWhole(results, `chunks of ${sizes} bytes`);
          if (tokens === undefined) return;
          for (const { y } of results.slice(0, -1)) expect(y.length).toBe(tokens * dModel);
        },
      ),
      { numRuns: 40 },
    ));

  const cut = [100, 4, 1, 7, 12];
  const sources: readonly (readonly [string, () => StreamSource])[] = [
    ["one array", () => x],
    ["one buffer", () => x.buffer],
    ["a list", () => [x.subarray(0, 4), x.subarray(4)]],
    [
      "floats and bytes in turn",
      () => [x.subarray(0, 4), new DataView(x.buffer, 16, 20), bytes.subarray(36)],
    ],
    ["an async generator", () => slowly(pieces(cut))],
    ["a ReadableStream", () => readable(pieces(cut))],
    ["a response's body", () => new Response(bytes).body as ReadableStream<Uint8Array>],
    ["a Blob's stream", () => new Blob([bytes]).stream()],
  ];
  test.each(sources)("from %s", async (name, source) => {
    expectWhole(await collect(lru.forwardStream(source())), name);
  });

  test("as a TransformStream", async () => {
    for (const tokens of [undefined, 1, 64, 1000]) {
      const chain = readable(pieces(cut)).pipeThrough(lru.forwardTransform({ tokens }));
      const results: ForwardResult<LruCache>[] = [];
      for (const reader = chain.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        results.push(value);
      }
      expectWhole(results, `${tokens} tokens`);
    }
  });

  test("a chunk larger than a window is answered in several pieces", async () => {
    const long = floats(300_000 * dModel, 2);
    const [results, { y }] = [await collect(lru.forwardStream(long)), await lru.forward(long)];
    expect(results.length).toBeGreaterThan(2);
    expectSameBits(
      join(
        results.map((piece) => piece.y),
        1,
      ),
      y,
      "y",
    );
  });

  test("from a state, which stays as it is", async () => {
    const { state } = await lru.forward(x.subarray(0, 100 * dModel));
    const before = state.clone();
    const stream = lru.forwardStream(x.subarray(100 * dModel), { state });
    lru.stepSync(x.subarray(0, dModel), state); // too late to matter
    const [result] = await collect(stream);
    expectSameBits(result?.y as Float32Array, whole.y.subarray(100 * dModel), "y");
    expectSameState([lru, result?.state as LruCache], [lru, whole.state], "state");
    expect(before.get()).not.toEqual(state.get());
  });

  test("whatever becomes of the state in a result", async () => {
    const results: ForwardResult<LruCache>[] = [];
    for await (const result of lru.forwardStream(x, { tokens: 100 })) {
      results.push({ y: result.y, state: result.state.clone() });
      lru.stepSync(floats(dModel, 3), result.state); // to look ahead
    }
    expect(results.length).toBe(4);
    expectWhole(results, "with steps between");
  });

  test.each(["ml_cls_01_mean_prenorm", "ml_cls_03_last"])("%s says what it thinks so far", async (name) => {
    const { checkpoint, spec } = await loadGolden(name);
    const model: Model = await engine.model(writeSafetensors(checkpoint), spec);
    const input = floats(41 * model.inputWidth, 3);
    const results = await collect(
      model.forwardStream(pieces([50], new Uint8Array(input.buffer as ArrayBuffer))),
    );
    let tokens = 0;
    for (const [i, { y }] of results.entries()) {
      tokens = Math.floor(Math.min((i + 1) * 50, input.byteLength) / (4 * model.inputWidth));
      const { y: soFar } = await model.forward(input.slice(0, tokens * model.inputWidth));
      expectSameBits(y, soFar, `after ${tokens} tokens`);
    }
    expect(tokens).toBe(41);
  });

  test("on the backend that was asked for", async () => {
    const { y } = await lru.forward(x, { backend: "reference" });
    expect(y).not.toEqual(whole.y);
    const [result] = await collect(lru.forwardStream(x, { backend: "reference" }));
    expectSameBits(result?.y as Float32Array, y, "y");
  });

  test("nothing comes of nothing", async () => {
    expect(await collect(lru.forwardStream([]))).toEqual([]);
    expect(await collect(lru.forwardStream(new Float32Array(0)))).toEqual([]);
  });
});

describe("with reset, integrationTimesteps and every", () => {
  const [width, tokens] = [2, 230];
  const values = floats(tokens * width, 11);
  const params = hardParams(width, 3, 12);

  /** What one forward gives, and the stream of chunks that end at `cuts`, some of them without marks where these are none. */
  async function compare(host: Engine, seed: number, timed: boolean, every: number, window?: number) {
    const layer = await host.lru(params);
    const next = random(seed);
    const reset = Uint8Array.from({ length: tokens }, () => (next() < 0.03 ? 1 : 0));
    const integrationTimesteps = timed
      ? Float32Array.from({ length: tokens }, () => Math.floor(5 * next()) / 2)
      : undefined;
    const chunks: StreamChunk[] = [];
    for (let from = 0; from < tokens; ) {
      const to = Math.min(tokens, from + Math.floor(40 * next()));
      const x = values.subarray(from * width, to * width);
      const mask = reset.subarray(from, to);
      const marked = { x, reset: mask, integrationTimesteps: integrationTimesteps?.subarray(from, to) };
      if (timed || mask.includes(1)) chunks.push(marked);
      else chunks.push(x.subarray(0, 1), x.subarray(1));
      from = to;
    }
    const expected = await layer.forward(values, { reset, integrationTimesteps, every });
    const results = await collect(layer.forwardStream(chunks, { every, tokens: window }));
    // Past its last output the row of one forward is filled up with zeros.
    let [count, outputs] = [0, 0];
    for (const mark of reset) {
      count = mark ? 1 : count + 1;
      if (count % every === 0) outputs++;
    }
    const y = join(
      results.map((result) => result.y),
      1,
    );
    expect(expected.y.subarray(outputs * width).every((v) => v === 0)).toBe(true);
    const last = results.at(-1) as ForwardResult<LruCache>;
    const result = { y, expected: expected.y.subarray(0, outputs * width) };
    return { ...result, layer, state: last.state, expectedState: expected.state };
  }

  const settings = fc.tuple(
    fc.nat(0xffff),
    fc.boolean(),
    fc.constantFrom(1, 2, 7, 100),
    fc.option(fc.integer({ min: 1, max: 90 }), { nil: undefined }),
  );

  test.each(builds)("one forward, bit for bit, on any threads (%s)", async (build) => {
    for (const { name, engine: host } of await createEngines(build, [0, 2], [0, 2])) {
      await fc.assert(
        fc.asyncProperty(settings, async (setting) => {
          const { y, expected, layer, state, expectedState } = await compare(host, ...setting);
          expectSameBits(y, expected, name);
          expectSameState([layer, state], [layer, expectedState], name);
        }),
        { numRuns: 12 },
      );
      await host.dispose();
    }
  });

  test("timesteps of a class of the caller's own", async () => {
    class Times extends Float32Array {
      override subarray(): never {
        throw new RangeError("no parts of this");
      }
    }
    const integrationTimesteps = new Times(tokens).fill(2);
    const layer = await engine.lru(params);
    const { y } = await layer.forward(values, { integrationTimesteps: new Float32Array(tokens).fill(2) });
    const results = await collect(layer.forwardStream({ x: values, integrationTimesteps }, { tokens: 60 }));
    const pieces = results.map((result) => result.y);
    expectSameBits(join(pieces, 1), y, "y");
  });

  test.for(["reference", "webgpu"] as const)("one forward on %s", async (backend, context) => {
    const host = await createEngine({ backend: [backend, "reference"] });
    needBackend(context, host, backend);
    for (const timed of [false, true]) {
      const { y, expected } = await compare(host, 5, timed, 3);
      expect(relativeError(y, expected)).toBeLessThan(backend === "webgpu" ? 5e-6 : 1e-7);
    }
    await host.dispose();
  });
});
