/** forwardStream: one forward over chunks as they come, on the CPU bit for bit, wherever they are cut. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import {
  createEngine,
  type Engine,
  type ForwardResult,
  type LinrecError,
  type Lru,
  type LruCache,
  type Model,
  type StreamChunk,
  type StreamSource,
  writeSafetensors,
} from "../src/index.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createEngines, needBackend } from "./support/engines.js";
import { loadGolden, relativeError } from "./support/golden.js";
import { detached, errorOf, expectLinrecError, type Misuse, wrong } from "./support/misuse.js";
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

async function collect<T>(results: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const result of results) all.push(result);
  return all;
}

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

function readable(chunks: Iterable<StreamChunk>): ReadableStream<StreamChunk> {
  const iterator = chunks[Symbol.iterator]();
  return new ReadableStream({
    pull(controller) {
      const { done, value } = iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
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

describe("the source", () => {
  /** Endless; counts what was asked of it. */
  function endless() {
    const seen = { pulled: 0, closed: false };
    async function* source() {
      try {
        for (;;) {
          seen.pulled++;
          yield x.slice(0, dModel);
        }
      } finally {
        seen.closed = true;
      }
    }
    return { seen, source: source() };
  }

  test("is read only as results are wanted, and closed when the loop is left", async () => {
    const { seen, source } = endless();
    const stream = lru.forwardStream(source);
    expect(seen.pulled).toBe(0);
    await stream.next();
    await Promise.resolve();
    expect(seen).toEqual({ pulled: 1, closed: false });
    for await (const { y } of stream) {
      expect(y.length).toBe(dModel);
      if (seen.pulled === 5) break;
    }
    expect(seen).toEqual({ pulled: 5, closed: true });
  });

  test("waits for a slow reader of the TransformStream", async () => {
    let pulled = 0;
    const source = new ReadableStream<Float32Array>({
      pull(controller) {
        pulled++;
        controller.enqueue(x);
      },
    });
    const reader = source.pipeThrough(lru.forwardTransform()).getReader();
    await reader.read();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(pulled).toBeLessThan(6);
    await reader.cancel();
  });

  test("is closed by a signal, even while it is waited for", async () => {
    const controller = new AbortController();
    let cancelled = false;
    const silent = new ReadableStream<Uint8Array>({
      cancel() {
        cancelled = true;
      },
    });
    const next = lru.forwardStream(silent, { signal: controller.signal }).next();
    setTimeout(() => controller.abort("enough"));
    expectLinrecError(await errorOf(() => next), "aborted", /AbortSignal/);
    await Promise.resolve();
    expect(cancelled).toBe(true);
  });

  test("passes its own error on", async () => {
    async function* broken() {
      yield x;
      throw new RangeError("the cable is out");
    }
    const stream = lru.forwardStream(broken());
    expect((await stream.next()).done).toBe(false);
    await expect(stream.next()).rejects.toThrow(new RangeError("the cable is out"));
  });

  test.each<[string, () => never | Promise<never>]>([
    [
      "throws",
      () => {
        throw new RangeError("the tap is stuck");
      },
    ],
    ["rejects", () => Promise.reject(new RangeError("the tap is stuck"))],
  ])("whose return() %s is told of as for await tells it", async (_, close) => {
    /** Ends, or fails, after one chunk. */
    const source = (fails: boolean): StreamSource => {
      let given = 0;
      const next = async () => {
        if (given > 0 && fails) throw new RangeError("the well is dry");
        return given++ > 0 ? { done: true as const, value: undefined } : { done: false as const, value: x };
      };
      return { [Symbol.asyncIterator]: () => ({ next, return: close }) };
    };
    const leave = async (results: AsyncIterable<unknown>) => {
      for await (const _ of results) break;
    };
    const stuck = new RangeError("the tap is stuck");
    await expect(leave(source(false) as AsyncIterable<unknown>)).rejects.toThrow(stuck);
    await expect(leave(lru.forwardStream(source(false)))).rejects.toThrow(stuck);
    await expect(collect(lru.forwardStream(source(true)))).rejects.toThrow(new RangeError("the well is dry"));
    expectWhole(await collect(lru.forwardStream(source(false))), "one that ends");
  });

  test("that is locked says so, with the cause", async () => {
    const locked = readable([x]);
    locked.getReader();
    const error = await errorOf(() => first(locked));
    expectLinrecError(
      error,
      "invalid-argument",
      /nobody else reads.*got ReadableStream, which gives no reader/,
    );
    expect((error as LinrecError).cause).toBeInstanceOf(TypeError);
  });

  test("that ends within a token says so, after the whole ones", async () => {
    const stream = lru.forwardStream(bytes.subarray(0, 4 * dModel + 5));
    expect((await stream.next()).value?.y.length).toBe(dModel);
    expectLinrecError(
      await errorOf(() => stream.next()),
      "shape-mismatch",
      /5 bytes are left.*12 \(3 values of 4\)/,
    );
  });
});

describe("the signal of a TransformStream", () => {
  /** An AbortController, and what listens to it. */
  function counted() {
    const controller = new AbortController();
    const { signal } = controller;
    const added = vi.spyOn(signal, "addEventListener");
    const removed = vi.spyOn(signal, "removeEventListener");
    const listening = () =>
      added.mock.calls.filter(([, listener]) => removed.mock.calls.every(([, gone]) => gone !== listener));
    return { controller, signal, listening };
  }

  test("is heard while no chunk comes", async () => {
    const { controller, signal } = counted();
    const { readable: results, writable } = lru.forwardTransform({ signal });
    const writer = writable.getWriter();
    const closed = errorOf(() => writer.closed);
    const reader = results.getReader();
    await Promise.all([writer.write(x), reader.read()]);
    const read = errorOf(() => reader.read());
    controller.abort("enough");
    expectLinrecError(await read, "aborted", /AbortSignal/);
    expect(((await read) as LinrecError).cause).toBe("enough");
    expectLinrecError(await closed, "aborted", /AbortSignal/);
  });

  test("that has fired before", async () => {
    const { readable: results } = lru.forwardTransform({ signal: AbortSignal.abort() });
    expectLinrecError(await errorOf(() => results.getReader().read()), "aborted", /AbortSignal/);
  });

  test("is left alone when the stream has ended, or failed", async () => {
    for (const chunk of [x, x.subarray(1)]) {
      const { signal, listening } = counted();
      const { readable: results, writable } = lru.forwardTransform({ signal });
      const writer = writable.getWriter();
      const [written, reader] = [writer.write(chunk), results.getReader()];
      await reader.read();
      await written;
      expect(listening().length).toBe(1);
      const ended = Promise.allSettled([writer.close(), writer.closed]);
      await reader.read().catch(() => {});
      await ended;
      expect(listening()).toEqual([]);
    }
  });

  test("is left alone when the stream was cancelled, at once too", async (context) => {
    let known = false;
    const cancel = () => {
      known = true;
    };
    await new TransformStream({ cancel } as Transformer).readable.cancel();
    if (!known) context.skip("this runtime does not tell a TransformStream of it");
    for (const wait of [0, 20]) {
      const { signal, listening } = counted();
      const { readable: results } = lru.forwardTransform({ signal });
      await new Promise((resolve) => setTimeout(resolve, wait));
      await results.cancel();
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(listening()).toEqual([]);
    }
  });
});

const first = (source: unknown) => lru.forwardStream(wrong(source)).next();
/** Resizable, which TypeScript does not know of yet. */
const roomy = () => Reflect.construct(ArrayBuffer, [1200, { maxByteLength: 2400 }]) as ArrayBuffer;

function makeMarked() {
  return {
    x: new Float32Array(roomy(), 0, 300),
    integrationTimesteps: new Float32Array(100).fill(1),
    reset: new Array<number>(100).fill(0),
  };
}

/** A chunk of 100 tokens, of which 10 have been read when something happens to it. */
async function spoilt(
  give: (chunk: ReturnType<typeof makeMarked>) => StreamChunk,
  spoil: (chunk: ReturnType<typeof makeMarked>) => void,
): Promise<unknown> {
  const chunk = makeMarked();
  const stream = lru.forwardStream(give(chunk), { tokens: 10 });
  await stream.next();
  spoil(chunk);
  return collect(stream);
}

const misuse: readonly Misuse<void>[] = [
  ["no source", "invalid-argument", /ReadableStream.*undefined/, () => first(undefined)],
  ["a path", "invalid-argument", /got string/, () => first("x.f32")],
  ["float64", "wrong-dtype", /Float64Array/, () => first([new Float64Array(3)])],
  [
    "ids for a model of features",
    "wrong-dtype",
    /Float32Array.*got Int32Array/,
    () => first([new Int32Array(3)]),
  ],
  ["numbers", "wrong-dtype", /got number/, () => first([1, 2, 3])],
  ["text", "wrong-dtype", /got string/, () => first(["1, 2, 3"])],
  ["detached", "detached", /copy/, () => first([detached(new Float32Array(3))])],
  [
    "detached between results",
    "detached",
    /1200 bytes, .* when 120 of them had been read.*copy/,
    () =>
      spoilt(
        (chunk) => chunk,
        ({ x }) => detached(x),
      ),
  ],
  [
    "timesteps detached between results",
    "detached",
    /1200 bytes/,
    () =>
      spoilt(
        (chunk) => chunk,
        ({ integrationTimesteps }) => detached(integrationTimesteps),
      ),
  ],
  [
    "a mask that is shorter now",
    "detached",
    /1200 bytes/,
    () =>
      spoilt(
        (chunk) => chunk,
        ({ reset }) => reset.pop(),
      ),
  ],
  [
    "made smaller between results",
    "detached",
    /1200 bytes/,
    () =>
      spoilt(
        ({ x }) => x.buffer,
        ({ x }) => (x.buffer as unknown as { resize(bytes: number): void }).resize(600),
      ),
  ],
  [
    "a getReader that is none",
    "invalid-argument",
    /got Object, which gives no reader/,
    () => first({ getReader: 5 }),
  ],
  [
    "an iterator that is none",
    "invalid-argument",
    /got Object, whose iterator is none/,
    () => first({ [Symbol.asyncIterator]: 5 }),
  ],
  [
    "no iterator",
    "invalid-argument",
    /whose iterator is none/,
    () => first({ [Symbol.asyncIterator]: () => undefined }),
  ],
  [
    "nothing from next()",
    "invalid-argument",
    /got one whose next\(\) gave undefined/,
    () => first({ [Symbol.iterator]: () => ({ next() {} }) }),
  ],
  ["no chunk's option", "invalid-argument", /a chunk .*no option "resets"/, () => first([{ x, resets: [] }])],
  [
    "a mask of other tokens",
    "shape-mismatch",
    /reset must be an array \[tokens\], 311/,
    () => first([{ x, reset: [1] }]),
  ],
  [
    "half a token with marks",
    "shape-mismatch",
    /whole tokens, of 12 bytes; it has 4 bytes/,
    () => first([{ x: x.subarray(0, 1), reset: [] }]),
  ],
  [
    "marks within a token",
    "shape-mismatch",
    /the chunk before it ended within one/,
    () => first([x.subarray(0, 1), { x: x.subarray(0, 3), reset: [1] }]),
  ],
  [
    "timesteps that come late",
    "invalid-argument",
    /has some integrationTimesteps, .* had none/,
    async () =>
      collect(lru.forwardStream([x, { x: x.subarray(0, 3), integrationTimesteps: Float32Array.of(1) }])),
  ],
  [
    "timesteps that end",
    "invalid-argument",
    /has no integrationTimesteps, .* had some/,
    async () =>
      collect(lru.forwardStream([{ x: x.subarray(0, 3), integrationTimesteps: Float32Array.of(1) }, x])),
  ],
  [
    "a timestep below 0",
    "invalid-argument",
    /at least 0/,
    () => first({ x: x.subarray(0, 3), integrationTimesteps: Float32Array.of(-1) }),
  ],
  ["every 0", "invalid-argument", /every .* got 0/, () => lru.forwardStream(x, { every: 0 })],
  ["tokens 0", "invalid-argument", /tokens .* got 0/, () => lru.forwardStream(x, { tokens: 0 })],
  ["tokens past all memory", "out-of-memory", /fewer/, () => lru.forwardStream(x, { tokens: 2 ** 50 })],
  ["a foreign state", "invalid-argument", /state/, () => lru.forwardStream(x, { state: wrong({}) })],
  [
    "a state of two rows",
    "shape-mismatch",
    /state has 2 rows/,
    () => lru.forwardStream(x, { state: lru.allocateInferenceCache(2) }),
  ],
  ["an unknown option", "invalid-argument", /"batch"/, () => lru.forwardStream(x, wrong({ batch: 2 }))],
  [
    "a backend of no name",
    "invalid-argument",
    /backend/,
    () => lru.forwardTransform({ backend: wrong("gpu") }),
  ],
  ["no signal", "invalid-argument", /signal/, () => lru.forwardTransform({ signal: wrong(1) })],
];

test.each(misuse)("refused: %s", async (_, code, says, call) => {
  expectLinrecError(await errorOf(() => call()), code, says);
});
