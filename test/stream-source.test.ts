/** What streams owe to their sources and signals: asked only when results are wanted, closed when nobody wants more. */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { createEngine, type Engine, type LinrecError, type Lru, type StreamSource } from "../src/index.js";
import { expectSameBits } from "./support/bits.js";
import { collect, readable } from "./support/chunks.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const dModel = 3;

let engine: Engine;
let lru: Lru;
const x = floats(311 * dModel, 1);

beforeAll(async () => {
  engine = await createEngine({ backend: "wasm", threads: 0 });
  lru = await engine.lru(hardParams(dModel, 5, 1));
});
afterAll(() => engine.dispose());

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

  test("that never gives a chunk keeps no abort waiting: its return() comes after that", async () => {
    const controller = new AbortController();
    async function* silent() {
      await new Promise(() => {});
      yield x;
    }
    const next = lru.forwardStream(silent(), { signal: controller.signal }).next();
    setTimeout(() => controller.abort("enough"));
    expectLinrecError(await errorOf(() => next), "aborted", /AbortSignal/);
  });

  test("is free again when the loop is left", async () => {
    const source = readable([x, x]);
    for await (const _ of lru.forwardStream(source)) break;
    expect(source.locked).toBe(false);
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
    const [piece] = await collect(lru.forwardStream(source(false)));
    expectSameBits(piece?.y as Float32Array, (await lru.forward(x)).y, "one that ends");
  });

  test("that is locked says so, with the cause", async () => {
    const locked = readable([x]);
    locked.getReader();
    const error = await errorOf(() => lru.forwardStream(locked).next());
    expectLinrecError(
      error,
      "invalid-argument",
      /nobody else reads.*got ReadableStream, which gives no reader/,
    );
    expect((error as LinrecError).cause).toBeInstanceOf(TypeError);
  });

  test("that ends within a token says so, after the whole ones", async () => {
    const stream = lru.forwardStream(new Uint8Array(x.buffer, 0, 4 * dModel + 5));
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
