/**
 * Workers that die, throw or fall silent: a forward gives the right result or an error, and is never left pending.
 * Whoever listens is told.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { PooledWorker } from "../src/cpu/pool.js";
import { Control } from "../src/cpu/protocol.js";
import { createEngine, type Engine, type EngineOptions, type Lru, type LruParams } from "../src/index.js";
import { parts } from "../src/parts.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { createPrivateEngine } from "./support/engines.js";
import { type Fault, faultyWorkerUrl, isNode, moduleUrl } from "./support/faultyWorker.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const [dModel, dState, batch] = [30, 33, 3];
const params: LruParams = hardParams(dModel, dState, 1);
/** Of a short forward in shared memory the calling thread is through before a worker has noticed: this one is none. */
const x = floats(batch * 15_000 * dModel, 2);

/** What the calling thread gives. */
let expected: Awaited<ReturnType<Lru["forward"]>>;
let alone: { engine: Engine; lru: Lru };
const engines: Engine[] = [];

beforeAll(async () => {
  const engine = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
  alone = { engine, lru: await engine.lru(params) };
  expected = await alone.lru.forward(x, { batch });
});
afterAll(() => alone.engine.dispose());
afterEach(async () => {
  vi.useRealTimers();
  await Promise.all(engines.splice(0).map((engine) => engine.dispose()));
});

const memories = ["shared memory", "private memories"] as const;

async function open(memory: (typeof memories)[number], options: EngineOptions) {
  const told: string[] = [];
  const onFallback: EngineOptions["onFallback"] = ({ reason }) => told.push(reason);
  const all = { backend: "wasm", threads: 2, onFallback, ...options } as const;
  const engine = await (memory === "shared memory"
    ? createEngine({ simd: "baseline", ...all })
    : createPrivateEngine("baseline", all));
  engines.push(engine);
  return { engine, lru: await engine.lru(params), told };
}

async function expectRight(lru: Lru, what: string): Promise<void> {
  const { y, state } = await lru.forward(x, { batch });
  expectSameBits(y, expected.y, `y, ${what}`);
  expectSameState([lru, state], [alone.lru, expected.state], `state, ${what}`);
}

describe.each(memories)("%s", (memory) => {
  // A browser's worker that closes itself says nothing: that is a silence.
  const noticed: Fault[] = isNode ? ["exit", "throw", "reject"] : ["throw", "reject"];

  test.each(noticed)("every second piece of work ends in: %s", async (fault) => {
    const { lru, told } = await open(memory, { workerUrl: faultyWorkerUrl(fault, 2) });
    for (let i = 0; i < 5; i++) await expectRight(lru, `forward ${i}`);
    expect(told.length).toBeGreaterThan(0);
    expect(told[0]).toMatch(/worker thread.*run again/);
  });

  test.each(noticed)("all work ends in: %s", async (fault) => {
    const { engine, lru, told } = await open(memory, { workerUrl: faultyWorkerUrl(fault, 1) });
    const calls = [0, 1, 2].map((i) => expectRight(lru, `forward ${i}`));
    await Promise.all(calls);
    expect(told.length).toBeGreaterThan(0);
    expect(engine.backends.wasm.available).toBe(true);
  });

  test("a worker that falls silent is given up at the deadline", async () => {
    const { engine, lru, told } = await open(memory, { workerUrl: faultyWorkerUrl("silence", 2) });
    // One window, or one span for each worker: the pool is there, and its next piece of work is the silent one.
    const rows = memory === "shared memory" ? batch : 2;
    const size = memory === "shared memory" ? x.length : rows * 64 * dModel;
    const given = engine.allocate(size);
    given.set(x.subarray(0, size));
    const out = engine.allocate(size);
    await lru.forward(given, { batch: rows, out });
    await new Promise((resolve) => setTimeout(resolve, 50)); // it is back at its messages
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const result = lru.forward(given, { batch: rows, out });
    await vi.waitUntil(async () => {
      if (vi.getTimerCount() === 0) return false;
      await vi.advanceTimersByTimeAsync(20_000);
      return true;
    });
    const { y } = await result;
    vi.useRealTimers();
    expectSameBits(y, (await alone.lru.forward(given, { batch: rows })).y, "y");
    expect(told).toEqual([expect.stringMatching(/did not answer within \d+ ms.*run again/)]);
  });

  test("a pool that cannot start: the calling thread, with the reason", async () => {
    const missing = isNode ? "file:///no/such/worker.js" : new URL("/no/such/worker.js", location.href);
    const throwing = moduleUrl('throw new Error("not today");');
    for (const workerUrl of [missing, throwing]) {
      const { engine, lru, told } = await open(memory, { workerUrl });
      await expectRight(lru, `worker ${String(workerUrl).slice(0, 40)}`);
      await expectRight(lru, "once more");
      expect(told).toEqual([expect.stringMatching(/could not be started: .*workerUrl.*calling thread/)]);
      expect(engine.backends.wasm).toMatchObject({
        available: true,
        reason: expect.stringMatching(/could not be started/),
      });
      const plan = engine.explain("forward", { dModel, dState, seqLen: 10_000 });
      expect(plan).toMatchObject({ backend: "wasm", threads: 0 });
    }
  });

  test("one layer's failing worker does not disturb another layer's forward", async () => {
    const { engine, lru } = await open(memory, { workerUrl: faultyWorkerUrl("throw", 3) });
    const second = await engine.lru(params);
    const calls = [lru, second, lru, second, lru, second];
    await Promise.all(calls.map((layer, i) => expectRight(layer, `forward ${i}`)));
  });
});

test("what starts workers cannot be loaded: the calling thread, with the reason", async () => {
  const load = vi.spyOn(parts, "threads").mockRejectedValue(new Error("no such file"));
  const { lru, told } = await open("shared memory", {});
  await expectRight(lru, "calling thread");
  load.mockRestore();
  expect(told).toEqual([expect.stringMatching(/no such file/)]);
});

test("an unusable workerUrl is an error at once, or the calling thread: never a hang", async () => {
  try {
    const { lru, told } = await open("shared memory", { workerUrl: "not a URL" });
    await expectRight(lru, "calling thread");
    expect(told).toHaveLength(1);
  } catch (error) {
    expectLinrecError(error, "invalid-argument", /workerUrl/);
  }
});

test.each(memories)(
  "an error of the caller's own onProgress is not taken for a worker's (%s)",
  async (memory) => {
    const { engine, lru, told } = await open(memory, {});
    const thrown = new Error("the caller's own");
    const onProgress = vi.fn(() => {
      throw thrown;
    });
    const out = new Float32Array(x.length);
    const error = await errorOf(() => lru.forward(x, { batch, onProgress, out }));
    const left = out.slice();
    expect([error, (error as Error).cause]).toContain(thrown);
    expect(told).toEqual([]);
    expect(engine.backends.wasm.available).toBe(true);
    await expectRight(lru, "afterwards");
    expect(onProgress, "what is still under way is told no more").toHaveBeenCalledTimes(1);
    expectSameBits(out, left, "out, after the rejection");
  },
);

test("an error of the caller's own onProgress does not end a backend", async () => {
  const engine = await createEngine({ threads: 0, gpu: { requestAdapter: async () => null } });
  engines.push(engine);
  const told: unknown[] = [];
  const lru = await engine.lru(params);
  const onProgress = (progress: unknown) => {
    told.push(progress);
    if (told.length < 5) throw new Error("the caller's own"); // not for ever: a forward that is run again would be, too
  };
  await errorOf(() => lru.forward(x, { batch, onProgress }));
  expect(told).toHaveLength(1); // and it is not run again on another
  expect(engine.backends.wasm.available).toBe(true);
});

test("a worker that dies at the second block of rows: those of the first begin anew, where nobody may still be writing", async () => {
  const rows = 66;
  const many = floats(rows * 900 * dModel, 3);
  const right = await alone.lru.forward(many, { batch: rows });
  const { lru, told } = await open("shared memory", {});
  const { run } = PooledWorker.prototype;
  const windows = new Set<number>();
  /** Where the second block's jobs write: until the worker has died, and afterwards. */
  const [lost, taken] = [new Set<number>(), new Set<number>()];
  const dying = vi.spyOn(PooledWorker.prototype, "run").mockImplementation(function (
    this: PooledWorker,
    ...args
  ) {
    const { scratch, window } = args[0];
    windows.add(window.rows);
    if (window.rows === 2) {
      for (const at of [scratch, window.y, window.states]) (told.length === 0 ? lost : taken).add(at);
      if (told.length === 0) this.terminate();
    }
    return run.apply(this, args);
  });
  const { y, state } = await lru.forward(many, { batch: rows });
  dying.mockRestore();
  expect([...windows]).toEqual([64, 2]);
  expect(told.length).toBe(1);
  expect([...taken].filter((at) => lost.has(at))).toEqual([]);
  expectSameBits(y, right.y, "y");
  expectSameState([lru, state], [alone.lru, right.state], "state");
});

test("a worker that dies within a tile of a short forward: the calling thread does not wait for that tile", async () => {
  const { engine, lru, told } = await open("shared memory", {});
  const short = x.subarray(0, 2000 * dModel);
  const right = await alone.lru.forward(short);
  await expectRight(lru, "the workers are there");
  const memory = engine.allocate(1);
  const { run } = PooledWorker.prototype;
  const dying = vi.spyOn(PooledWorker.prototype, "run").mockImplementationOnce(function (
    this: PooledWorker,
    ...args
  ) {
    Atomics.add(new Int32Array(memory.buffer, args[0].window.control), Control.next, 1); // it has taken the first tile
    setTimeout(() => this.terminate(), 20);
    return run.apply(this, args);
  });
  const { y, state } = await lru.forward(short);
  dying.mockRestore();
  expect(told).toEqual([expect.stringMatching(/terminated.*run again/)]);
  expectSameBits(y, right.y, "y");
  expectSameState([lru, state], [alone.lru, right.state], "state");
});

test.each(memories)("what the backward half of a layer has added is not added twice: %s", async (memory) => {
  const ways = { forward: params, backward: hardParams(dModel, dState, 5) };
  const { y } = await (await alone.engine.bidirectional(ways)).forward(x, { batch });
  // In private memories the second piece of work is one of the backward half.
  const { engine, told } = await open(
    memory,
    memory === "shared memory" ? {} : { workerUrl: faultyWorkerUrl("throw", 2) },
  );
  const layer = await engine.bidirectional(ways);
  const { run } = PooledWorker.prototype;
  const dying = vi.spyOn(PooledWorker.prototype, "run").mockImplementation(async function (
    this: PooledWorker,
    ...args
  ) {
    await run.apply(this, args);
    if (args[0].window.adds === 0 || told.length > 0) return;
    this.terminate(); // with all of it done
    await run.apply(this, args);
  });
  const [own, out] = [engine.allocate(x.length), engine.allocate(x.length)];
  own.set(x);
  await layer.forward(own, { batch, out });
  dying.mockRestore();
  expect(told.join()).toMatch(/run again/);
  expectSameBits(out, y, "y");
});
