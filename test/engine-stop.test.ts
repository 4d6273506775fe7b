/** Forwards that are stopped or overtaken: aborted, disposed of, many at once. Every promise settles, at once. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { PooledWorker } from "../src/cpu/pool.js";
import { Control } from "../src/cpu/protocol.js";
import { WasmRunner } from "../src/cpu/runner.js";
import {
  createEngine,
  type Engine,
  type EngineOptions,
  type ForwardOptions,
  type Lru,
  type LruCache,
} from "../src/index.js";
import { expectSameBits } from "./support/bits.js";
import { createPrivateEngine } from "./support/engines.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const dModel = 8;
const params = hardParams(dModel, 130, 1);
/** Long enough to be stopped on the way: several windows of 4 MiB. */
const long = floats(400_000 * dModel, 2);
const short = floats(3 * 70 * dModel, 3);

/** A promise that is meant to settle at once: a machine that is busy with other things is given some time, too. */
const PROMPT_MS = 1000;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const engines: Engine[] = [];
afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.dispose()));
});

const modes = ["calling thread", "2 threads, shared memory", "2 threads, private memories"] as const;

async function open(mode: (typeof modes)[number]): Promise<{ engine: Engine; lru: Lru; told: string[] }> {
  const told: string[] = [];
  const onFallback: EngineOptions["onFallback"] = ({ reason }) => told.push(reason);
  const threads = mode === "calling thread" ? 0 : 2;
  const engine = await (mode === "2 threads, private memories"
    ? createPrivateEngine("baseline", { threads, onFallback })
    : createEngine({ backend: "wasm", simd: "baseline", threads, onFallback }));
  engines.push(engine);
  const lru = await engine.lru(params);
  await lru.forward(short, { batch: 3 }); // the workers are there
  return { engine, lru, told };
}

describe.each(modes)("%s", (mode) => {
  /** Starts a long forward, waits for it to be under way, stops it, and checks what came of that. */
  async function stopped(lru: Lru, stop: () => unknown, options: ForwardOptions<LruCache> = {}) {
    const out = new Float32Array(long.length).fill(7);
    let reports = 0;
    let forward: Promise<unknown> | undefined;
    const underWay = new Promise<void>((resolve) => {
      const onProgress = () => {
        reports++;
        resolve();
      };
      forward = lru.forward(long, { out, ...options, onProgress });
    });
    const error = errorOf(() => forward);
    await underWay;
    const before = performance.now();
    stop();
    const result = await error;
    expect(performance.now() - before).toBeLessThan(PROMPT_MS);
    return { error: result, out: out.slice(), later: () => ({ out, reports }), reports };
  }

  test("an abort rejects at once, and the next forward is right", async () => {
    const { lru, told } = await open(mode);
    const expected = await lru.forward(short, { batch: 3 });
    const controller = new AbortController();
    const reason = new Error("enough");
    const { state } = await lru.forward(short);
    const before = lru.serializeState(state);
    const result = await stopped(lru, () => controller.abort(reason), { state, signal: controller.signal });
    expectLinrecError(result.error, "aborted", /AbortSignal/);
    expect((result.error as Error).cause).toBe(reason);
    const next = await lru.forward(short, { batch: 3 });
    expectSameBits(next.y, expected.y, "y of the next");
    await pause(100);
    expectSameBits(lru.serializeState(state), before, "the state that was passed in");
    expectSameBits(result.later().out, result.out, "out, after the rejection");
    expect(result.later().reports).toBe(result.reports);
    expect(told).toEqual([]);
  });

  test("a signal that has fired already", async () => {
    const { lru } = await open(mode);
    const out = new Float32Array(short.length).fill(7);
    const signal = AbortSignal.abort();
    expectLinrecError(await errorOf(() => lru.forward(short, { batch: 3, signal, out })), "aborted", /./);
    await pause(50);
    expect(out.every((value) => value === 7)).toBe(true);
  });

  test("a signal that fires afterwards changes nothing", async () => {
    const { lru } = await open(mode);
    const controller = new AbortController();
    const { y } = await lru.forward(short, { batch: 3, signal: controller.signal });
    controller.abort();
    expectSameBits((await lru.forward(short, { batch: 3 })).y, y, "y");
  });

  test("a signal is left, and if it throws then that is nobody's unhandled rejection", async () => {
    const { lru } = await open(mode);
    const { signal } = new AbortController();
    const joined = vi.spyOn(signal, "addEventListener");
    const left = vi.spyOn(signal, "removeEventListener").mockImplementation(() => {
      throw new Error("stay");
    });
    const { y } = await lru.forward(long, { signal });
    expect(joined).toHaveBeenCalledOnce();
    expect(left.mock.calls).toEqual(joined.mock.calls);
    expectSameBits(y, (await lru.forward(long)).y, "y");
    await pause(20); // an unhandled rejection would fail the run
  });

  test("engine.dispose() rejects what is under way, and then all is quiet", async () => {
    const { engine, lru, told } = await open(mode);
    const result = await stopped(lru, () => engine.dispose());
    expectLinrecError(result.error, "disposed", /engine has been disposed of/);
    await pause(300);
    expect(told, "no fallback is told: nothing failed").toEqual([]);
    expect(result.later().reports, "reports of progress").toBe(result.reports);
    expectSameBits(result.later().out, result.out, "out, after the rejection");
  });

  test("engine.dispose() rejects what waits in the queue", async () => {
    const { engine, lru } = await open(mode);
    const errors = [0, 1, 2].map(() => errorOf(() => lru.forward(long)));
    await engine.dispose();
    for (const error of await Promise.all(errors)) expectLinrecError(error, "disposed", /./);
  });

  test("lru.dispose() rejects its own forwards, not another layer's", async () => {
    const { engine, lru, told } = await open(mode);
    const other = await engine.lru(params);
    const expected = await other.forward(short, { batch: 3 });
    let queued: Promise<unknown> | undefined;
    const result = await stopped(lru, () => {
      queued = other.forward(short, { batch: 3 }).then(({ y }) => expectSameBits(y, expected.y, "y"));
      lru.dispose();
    });
    expectLinrecError(result.error, "disposed", /layer or model/);
    await queued;
    expect(told).toEqual([]);
  });

  test("20 forwards at once", async () => {
    const { engine, lru } = await open(mode);
    const other = await engine.lru(hardParams(dModel, 5, 9));
    const jobs = Array.from({ length: 20 }, (_, i) => {
      const layer = i % 3 === 0 ? other : lru;
      const x = floats((1 + (i % 4)) * (20 + 37 * i) * dModel, i);
      return { layer, x, batch: 1 + (i % 4) };
    });
    const together = await Promise.all(jobs.map(({ layer, x, batch }) => layer.forward(x, { batch })));
    for (const [i, { layer, x, batch }] of jobs.entries()) {
      const { y, state } = await layer.forward(x, { batch });
      expectSameBits(together[i]?.y as Float32Array, y, `y of forward ${i}`);
      const bytes = layer.serializeState(together[i]?.state as typeof state);
      expectSameBits(bytes, layer.serializeState(state), `state of forward ${i}`);
    }
  });

  test("steps while a forward is under way", async () => {
    const { lru } = await open(mode);
    const expected = await lru.forward(long);
    const steps = await lru.forward(short.subarray(0, 40 * dModel));
    const forward = lru.forward(long);
    const cache = lru.allocateInferenceCache();
    for (let t = 0; t < 40; t++) {
      const yt = lru.stepSync(short.subarray(t * dModel, (t + 1) * dModel), cache);
      expectSameBits(yt, steps.y.subarray(t * dModel, (t + 1) * dModel), `step ${t}`);
      if (t % 4 === 0) await pause(1);
    }
    expectSameBits((await forward).y, expected.y, "forward");
  });

  test("a page's thread breathes during a long forward", async () => {
    const { lru } = await open(mode);
    let longest = 0;
    let before = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      longest = Math.max(longest, now - before);
      before = now;
    }, 1);
    await lru.forward(long);
    clearInterval(timer);
    expect(longest).toBeLessThan(500); // tens of ms on an idle machine
  });
});

test("an abort is heard by workers within a window: they take hardly a tile of it", async () => {
  const { engine, lru } = await open("2 threads, shared memory");
  const controller = new AbortController();
  const { run } = PooledWorker.prototype;
  let [taken, tiles] = [0, 0];
  const running = vi.spyOn(PooledWorker.prototype, "run").mockImplementationOnce(async function (
    this: PooledWorker,
    ...args
  ) {
    controller.abort();
    await run.apply(this, args);
    const { control, rows, tilesPerRow } = args[0].window;
    tiles = rows * tilesPerRow;
    taken = new Int32Array(engine.allocate(1).buffer, control)[Control.next] as number;
  });
  expectLinrecError(await errorOf(() => lru.forward(long, { signal: controller.signal })), "aborted", /./);
  await lru.forward(long); // after what was stopped
  running.mockRestore();
  expect(tiles).toBeGreaterThan(20);
  expect(taken).toBeLessThan(10);
});

test("what a backend still reports after an abort is not passed on", async () => {
  const { lru } = await open("calling thread");
  const controller = new AbortController();
  const slow = vi.spyOn(WasmRunner.prototype, "forward").mockImplementation(async ({ onProgress }) => {
    onProgress?.(1);
    controller.abort();
    onProgress?.(2);
  });
  const reports: number[] = [];
  const onProgress = ({ done }: { done: number }) => reports.push(done);
  const error = await errorOf(() => lru.forward(long, { signal: controller.signal, onProgress }));
  slow.mockRestore();
  expectLinrecError(error, "aborted", /AbortSignal/);
  expect(reports).toEqual([1]);
});
