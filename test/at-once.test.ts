/**
 * A forward whose rows are one call of a kernel each is run when it is called, but for a moment. It gives what steps give, to the
 * bit, wherever its arrays are.
 */
import { afterEach, expect, test, vi } from "vitest";
import type { PlainJob } from "../src/backend.js";
import { openWasm } from "../src/cpu/backend.js";
import { WasmRunner } from "../src/cpu/runner.js";
import { runAtOnce } from "../src/engine/work.js";
import { createEngine, type Engine, type Lru } from "../src/index.js";
import { lruProgram } from "../src/lruParams.js";
import { macrotask } from "../src/runtime/macrotask.js";
import { State, stateLayout } from "../src/state.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { builds, createPrivateEngine } from "./support/engines.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

/** A width without padding: of others a row is never one call. */
const [dModel, dState, seqLen] = [8, 5, 130];

/** Each row by itself, token by token, from a cache's state on. */
function stepped(lru: Lru, x: Float32Array, lengths: number[], before: Float32Array) {
  const y = new Float32Array(x.length);
  const after = lengths.map((length, row) => {
    const cache = lru.allocateInferenceCache(1);
    for (let t = 0; t < before.length; t += dModel) lru.stepSync(before.subarray(t, t + dModel), cache);
    for (let t = 0; t < length; t++) {
      const at = (row * seqLen + t) * dModel;
      y.set(lru.stepSync(x.subarray(at, at + dModel), cache), at);
    }
    return lru.stepSync(before.subarray(0, dModel), cache).slice();
  });
  return { y, after: after.flatMap((values) => [...values]) };
}

test.each(builds)("%s SIMD: in memory of the engine, or of the caller, or one of either", async (build) => {
  const shared = await createEngine({ backend: "wasm", simd: build, threads: 0 });
  const apart = await createPrivateEngine(build, { threads: 0 });
  for (const engine of [shared, apart]) {
    const lru = await engine.lru(hardParams(dModel, dState, 1));
    const before = floats(70 * dModel, 3);
    const token = before.subarray(0, dModel);
    // More rows than a block has go through windows.
    const many = Array.from({ length: 65 }, (_, row) => row % 4);
    for (const lengths of [[seqLen], [100], [1], [0], [seqLen, 0, 97], [3, seqLen, 48], many]) {
      const batch = lengths.length;
      const x = floats(batch * seqLen * dModel, 2);
      const all = (values: Float32Array) => Float32Array.from(lengths.flatMap(() => [...values]));
      for (const earlier of [new Float32Array(), before]) {
        const expected = stepped(lru, x, lengths, earlier.length ? before : token);
        for (const place of [0, 1, 2, 3]) {
          const what = `${lengths} tokens after ${earlier.length}, arrays ${place}`;
          const from = place & 1 ? engine.allocate(x.length) : new Float32Array(x.length);
          const out = (place & 2 ? engine.allocate(x.length) : new Float32Array(x.length)).fill(7);
          from.set(x);
          const { state } = await lru.forward(all(earlier.length ? before : token), { batch });
          // A cache whose state is in the kernels' memory, where a forward's states go as well.
          const [cache, twin] = [lru.allocateInferenceCache(1), lru.allocateInferenceCache(1)];
          lru.stepSync(token, twin);
          lru.stepSync(token, cache);
          let done = 0;
          const onProgress = (progress: { done: number }) => {
            done = progress.done;
          };
          const result = await lru.forward(from, { batch, out, lengths, state, onProgress });
          expectSameBits(out, expected.y, what);
          expectSameBits(from, x, `x, ${what}`);
          expect(done, what).toBe(batch * seqLen);
          expectSameState([lru, cache], [lru, twin], `a cache beside it, ${what}`);
          const next = lru.stepSync(all(token), result.state);
          expectSameBits(next, Float32Array.from(expected.after), `a step after ${what}`);
          engine.free(from);
          engine.free(out);
        }
      }
    }
    await engine.dispose();
  }
});

const stops: [
  string,
  "aborted" | "disposed",
  (engine: Engine, lru: Lru, abort: AbortController) => unknown,
][] = [
  ["its signal", "aborted", (_engine, _lru, abort) => abort.abort()],
  ["the end of its layer", "disposed", (_engine, lru) => lru.dispose()],
  ["the end of its engine", "disposed", (engine) => engine.dispose()],
];
test.each(stops)("%s stops it in the same breath", async (_, code, stop) => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(hardParams(dModel, dState, 1));
  const [out, abort] = [new Float32Array(dModel * seqLen).fill(7), new AbortController()];
  const error = errorOf(() => lru.forward(floats(dModel * seqLen, 2), { out, signal: abort.signal }));
  await stop(engine, lru, abort);
  expectLinrecError(await error, code, /./);
  expect(out.every((value) => value === 7)).toBe(true);
  await engine.dispose();
});

afterEach(() => {
  vi.restoreAllMocks();
});

test("it takes no turn of the event loop, but where it took long", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(hardParams(dModel, dState, 1));
  const x = floats(dModel * seqLen, 2);
  const heardDuring = async () => {
    let heard = false;
    const turn = macrotask().then(() => {
      heard = true;
    });
    await lru.forward(x);
    const during = heard;
    await turn;
    return during;
  };
  expect(await heardDuring()).toBe(false);
  let now = performance.now();
  vi.spyOn(performance, "now").mockImplementation(() => {
    now += 20;
    return now;
  });
  expect(await heardDuring()).toBe(true);
  await engine.dispose();
});

test("where it fails it leaves all as it was, for others to run it", async () => {
  const options = { threads: 0, sharedMemory: false, workerUrl: undefined, wasm: undefined };
  const backend = await openWasm({ simd: "baseline", ...options, onTrouble: () => {} });
  const { kernels, arena, queue } = backend;
  let calls = 0;
  const tiles: typeof kernels.tiles = (...args) => {
    if (++calls === 2) throw new RangeError("of no use");
    kernels.tiles(...args);
  };
  const program = lruProgram(hardParams(dModel, dState, 1));
  const host = { arena, queue, shared: false, threads: 0, wide: undefined, kernels: { ...kernels, tiles } };
  const none = {
    workers: async () => [],
    observe: () => {},
    discardWorkers: () => {},
    addressOf: () => undefined,
  };
  const runner = new WasmRunner({ ...host, ...none }, program);
  const lengths = Int32Array.of(seqLen, 70, 3);
  const [batch, x, y] = [3, floats(3 * seqLen * dModel, 2), new Float32Array(3 * seqLen * dModel)];
  const job = { batch, seqLen, lengths, x, y, state: new State(stateLayout(program), batch) };
  runner.step(x.subarray(0, batch * dModel), y.subarray(0, batch * dModel), job.state);
  const before = job.state.clone();
  const used = arena.used;
  expect(runAtOnce(runner, program, job)).toBe(false);
  expect(calls).toBe(2);
  expect(arena.used).toBe(used);
  for (const part of ["bytes", "k", "count"] as const) expect(job.state[part], part).toEqual(before[part]);

  expect(runAtOnce(runner, program, job)).toBe(true);
  const again = new WasmRunner(backend, program);
  const expected = { ...job, y: new Float32Array(y.length), state: before };
  await again.forward({ ...expected, threads: 0, signal: undefined, onProgress: undefined });
  expectSameBits(y, expected.y, "y");
  for (const part of ["bytes", "k", "count"] as const) expect(job.state[part], part).toEqual(before[part]);
  backend.dispose();
});

test("what is long, or no plain row, is not for it", async () => {
  const options = { threads: 0, sharedMemory: false, workerUrl: undefined, wasm: undefined };
  const backend = await openWasm({ simd: "baseline", ...options, onTrouble: () => {} });
  const tried = (width: number, batch: number, seqLen: number, more: Partial<PlainJob> = {}) => {
    const program = lruProgram(hardParams(width, width, 1));
    const runner = backend.prepare(program);
    const x = new Float32Array(batch * seqLen * width);
    const state = new State(stateLayout(program), batch);
    const lengths = new Int32Array(batch).fill(seqLen);
    const done = runAtOnce(runner, program, { batch, seqLen, lengths, x, y: x, state, ...more });
    runner.dispose();
    return done;
  };
  expect(tried(8, 1, 2)).toBe(true);
  expect([64, 65].map((batch) => tried(8, batch, 2))).toEqual([true, false]); // as many rows as a block has
  expect([2 ** 17, 2 ** 17 + 1].map((seqLen) => tried(8, 1, seqLen))).toEqual([true, false]); // 4 MiB
  expect([3000, 3100].map((seqLen) => tried(128, 1, seqLen))).toEqual([true, false]); // 0.4 GFLOP
  expect(tried(8, 1, 2, { timesteps: new Float32Array(2) })).toBe(false);
  expect(tried(8, 1, 2, { resets: [Int32Array.of(1)] })).toBe(false);
  expect([1, 2].map((every) => tried(8, 1, 2, { every }))).toEqual([true, false]);
  backend.dispose();
});

test("a cache keeps its state when its layer is disposed of", async () => {
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const states = [];
  for (const isDisposed of [false, true]) {
    const lru = await engine.lru(hardParams(dModel, dState, 1));
    const cache = lru.allocateInferenceCache(2);
    for (const seed of [1, 2, 3]) lru.stepSync(floats(2 * dModel, seed), cache);
    if (isDisposed) lru.dispose();
    await macrotask(); // its memory is free now
    states.push(cache.get());
  }
  expect(states[1]).toEqual(states[0]);
  await engine.dispose();
});
