/**
 * Jobs pass between the calling thread and workers that share its memory over desks (src/cpu/desk.ts). In a short forward the
 * calling thread takes part, and takes back what a worker has not begun with.
 */
import { expect, test, vi } from "vitest";
import { Desk } from "../src/cpu/desk.js";
import type { SharedJob } from "../src/cpu/protocol.js";
import { createEngine, type Engine } from "../src/index.js";
import { expectSameBits } from "./support/bits.js";
import { floats, hardParams } from "./support/problems.js";

const window = {
  ...{ rows: 1, tileTokens: 2, tail: 3, tailTokens: 4, every: 5, tilesPerRow: 6, x: 7, xRowBytes: 8, y: 9 },
  ...{
    yRowBytes: 10,
    reversed: 11,
    adds: 12,
    states: 13,
    table: 14,
    control: 15,
    times: 16,
    timesRowBytes: 17,
  },
};
const job: SharedJob = { program: 18, scratch: 19, window };

test("a job is begun by the worker or taken back by the caller, never both", () => {
  const caller = new Desk();
  const worker = new Desk(caller.buffer as SharedArrayBuffer);
  expect(caller.put(job)).toBe(false); // the worker is away: it needs a message
  expect(worker.take()).toBe(true);
  expect(worker.read()).toEqual(job);
  expect(caller.takeBack()).toBe(false);
  worker.look();
  expect(caller.isDone()).toBe(true);
  expect(caller.put(job)).toBe(true); // it is looking
  expect(caller.takeBack()).toBe(true);
  expect(worker.take()).toBe(false);
  expect(worker.waitBriefly()).toBe(false); // and now it is away
  expect(caller.put(job)).toBe(false);
  expect(caller.takeBack()).toBe(true);
  expect(caller.put(job)).toBe(false);
  expect(worker.take()).toBe(true);
  expect(caller.number).toBe(4);
});

test("a worker that looks at its desk begins with a job at once, and looks for none for long", () => {
  const caller = new Desk();
  const worker = new Desk(caller.buffer as SharedArrayBuffer);
  const clock = vi.spyOn(performance, "now");
  worker.look();
  caller.put(job);
  expect(worker.waitBriefly()).toBe(true);
  expect(clock).toHaveBeenCalledTimes(1);
  worker.look();
  const start = performance.now();
  let now = start;
  clock.mockImplementation(() => {
    now += 0.05;
    return now;
  });
  expect(worker.waitBriefly()).toBe(false);
  expect(now - start).toBeLessThan(1);
  clock.mockRestore();
});

test("a clock that stands still ends the look, too", () => {
  const caller = new Desk();
  caller.put(job);
  const clock = vi.spyOn(performance, "now").mockReturnValue(1234);
  expect(caller.isDone()).toBe(false);
  expect(clock.mock.calls.length).toBeLessThan(10_000);
  clock.mockRestore();
});

test("of a short forward the calling thread does the share of a worker; of a long one it does none", async () => {
  const engine = await createEngine({ backend: "wasm", simd: "baseline", threads: 2 });
  const lru = await engine.lru(hardParams(64, 256, 2));
  await lru.forward(new Float32Array(6500 * 64)); // the workers are there
  const calls = vi.spyOn(Desk.prototype, "put");
  for (const [seqLen, workers] of [
    [1000, 1],
    [6500, 2],
  ] as const) {
    await lru.forward(new Float32Array(seqLen * 64)); // one window
    expect(calls, `${seqLen} tokens`).toHaveBeenCalledTimes(workers);
    calls.mockClear();
  }
  calls.mockRestore();
  await engine.dispose();
});

test("short forwards one after the other, with pauses of all lengths: the same bits on any number of threads", async () => {
  const [dModel, dState] = [16, 24];
  const [alone, ...others] = (await Promise.all(
    [0, 2, 3].map((threads) => createEngine({ backend: "wasm", simd: "baseline", threads })),
  )) as [Engine, Engine, Engine];
  const x = floats(3 * 4000 * dModel, 1);
  const params = hardParams(dModel, dState, 2);
  const expected = await (await alone.lru(params)).forward(x.subarray(0, 4000 * dModel));
  for (const engine of others) {
    const lru = await engine.lru(params);
    for (let i = 0; i < 200; i++) {
      const seqLen = 1 + ((i * 997) % 4000);
      const { y } = await lru.forward(x.subarray(0, seqLen * dModel));
      expectSameBits(y, expected.y.subarray(0, seqLen * dModel), `y of ${seqLen} tokens`);
      for (const end = performance.now() + (i % 5) * 0.1; performance.now() < end; );
      if (i % 3 === 0) await new Promise((resolve) => setTimeout(resolve, i % 4));
    }
    await engine.dispose();
  }
  await alone.dispose();
});
