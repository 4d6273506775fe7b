/** How much of a forward is in the CPU engine's memory at a time: windows, on a host that computes nothing; a tile's scratch block. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import { Arena } from "../src/cpu/arena.js";
import { openWasm } from "../src/cpu/backend.js";
import { packProgram } from "../src/cpu/packed.js";
import type { Window } from "../src/cpu/protocol.js";
import { noTile } from "../src/cpu/tile.js";
import { locate, RowTableView } from "../src/cpu/window.js";
import { forwardInWindows } from "../src/cpu/windows.js";
import { LinrecError } from "../src/errors.js";
import { lruProgram } from "../src/lruParams.js";
import { State, stateLayout } from "../src/state.js";
import { floats, hardParams } from "./support/problems.js";

/** The most tokens that are done at a time of `batch` rows, 250 000 tokens of 5 features in all. */
async function longest(extra: Partial<ForwardJob>, flopsPerToken: number, batch = 1): Promise<number> {
  const seqLen = 250_000 / batch;
  const lru = lruProgram(hardParams(5, 1, 1));
  const host = {
    program: packProgram(lru),
    backend: {
      arena: new Arena(new WebAssembly.Memory({ initial: 1, maximum: 1000 })),
      addressOf: () => undefined,
    },
    flopsPerToken,
    execute: async () => undefined,
  };
  const heard = [0];
  await forwardInWindows(host, {
    ...{ batch, seqLen, lengths: new Int32Array(batch).fill(seqLen), threads: 1, signal: undefined },
    ...{
      x: new Float32Array(5 * 250_000),
      y: new Float32Array(5 * 250_000),
      state: new State(stateLayout(lru), batch),
    },
    onProgress: (done) => heard.push(done),
    ...extra,
  });
  expect(heard.at(-1)).toBe(250_000);
  return Math.max(...heard.slice(1).map((done, i) => done - (heard[i] as number)));
}

const copied: [string, number, Partial<ForwardJob>][] = [
  ["x and y", 40, {}],
  ["timesteps, too", 44, { timesteps: new Float32Array(250_000) }],
  ["and nothing for what y is added to", 40, { onto: new Float32Array(5 * 250_000) } as Partial<ForwardJob>],
];
test.each(copied)("a window has all that fits into 8 MiB, and no more: %s", async (_, bytes, extra) => {
  const most = await longest(extra, 1);
  expect(most).toBeLessThanOrEqual(2 ** 23 / bytes);
  expect(most).toBeGreaterThan(2 ** 23 / bytes - 48);
});

test.each(copied)("and one of the calling thread 1 MiB: %s", async (_, bytes, extra) => {
  const most = await longest({ threads: 0, ...extra }, 1);
  expect(most).toBeLessThanOrEqual(2 ** 20 / bytes);
  expect(most).toBeGreaterThan(2 ** 20 / bytes - 48);
});

test("a forward that finds no memory for its windows leaves none of what it has found taken", async () => {
  const lru = lruProgram(hardParams(5, 1, 1));
  const arena = new Arena(new WebAssembly.Memory({ initial: 1, maximum: 140 })); // one window of two
  const host = {
    program: packProgram(lru),
    backend: { arena, addressOf: () => undefined },
    flopsPerToken: 1,
    execute: async () => {},
  };
  const state = new State(stateLayout(lru), 1);
  const [x, y] = [new Float32Array(5 * 250_000), new Float32Array(5 * 250_000)];
  const job = { batch: 1, seqLen: 250_000, lengths: Int32Array.of(250_000), threads: 1, x, y, state };
  const forward = forwardInWindows(host, { ...job, signal: undefined, onProgress: undefined });
  await expect(forward).rejects.toMatchObject({ code: "out-of-memory" });
  expect(arena.used).toBe(0);
});

test.each([
  ["the calling thread", 0, true],
  ["workers", 2, true],
  ["workers with memories of their own", 2, false],
])("a layer leaves nothing taken, wherever its memory runs out: %s", async (_, threads, sharedMemory) => {
  const told: string[] = [];
  const onTrouble = (reason: string) => void told.push(reason);
  const rest = { workerUrl: undefined, wasm: undefined, onTrouble };
  const backend = await openWasm({ simd: "baseline", threads, sharedMemory, ...rest });
  const program = lruProgram(hardParams(5, 3, 1));
  const { arena } = backend;
  const allocate = arena.allocate.bind(arena);
  let left = 0;
  arena.allocate = (bytes) => {
    if (left-- === 0) throw new LinrecError("out-of-memory", "None left.");
    return allocate(bytes);
  };
  const run = async () => {
    const runner = backend.prepare(program);
    const [x, y] = [floats(5 * 700, 1), new Float32Array(5 * 700)];
    const job = { batch: 1, seqLen: 700, lengths: Int32Array.of(700), threads, x, y };
    const state = new State(stateLayout(program), 1);
    try {
      await runner.forward({ ...job, state, signal: undefined, onProgress: undefined });
      runner.step(x.subarray(0, 5), y.subarray(0, 5), state);
    } finally {
      runner.dispose();
    }
  };
  let fails = -1;
  let error: Error | undefined;
  do {
    left = ++fails;
    error = await run().then(
      () => undefined,
      (error: Error) => error,
    );
    expect(error?.message ?? "None left.").toBe("None left.");
    expect(arena.used).toBe(0);
  } while (error);
  expect(fails).toBeGreaterThanOrEqual(3);
  expect(told).toEqual([]);
  backend.dispose();
});

test("a calling thread hears of all that is 0.4 GFLOP, and of no more at a time", async () => {
  const most = await longest({ threads: 0 }, 30_000);
  expect(30_000 * most).toBeLessThanOrEqual(4e8);
  expect(30_000 * (most + 48)).toBeGreaterThan(4e8);
});

test.each([8, 50, 250])("a calling thread hears as often where there are %i rows", async (batch) => {
  const [seqLen, wide] = [250_000 / batch, 700_000];
  for (const flopsPerToken of [30_000, wide]) {
    const most = await longest({ threads: 0 }, flopsPerToken, batch);
    expect(flopsPerToken * most).toBeLessThanOrEqual(4e8);
    expect(flopsPerToken * (most + Math.max(48, seqLen))).toBeGreaterThan(4e8);
  }
});

test("a tile's carries have room for one chunk more than its tokens fill: it may start inside one", () => {
  for (const dState of [1, 300]) {
    const { scratch, tileTokens } = packProgram(lruProgram(hardParams(8, dState, 1)));
    const floats = 8 * Math.ceil(dState / 4); // re and im of groups of 4
    expect(scratch.fresh - scratch.carries).toBeGreaterThanOrEqual(4 * floats * (tileTokens / 48 + 1));
  }
});

test("tiles hold every token of a row once, wherever it ends and whatever is reset", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const program = packProgram(lruProgram(hardParams(2, 3, 1)));
  const [tileTokens, tailTokens] = [96, 48];
  const row = fc.record({
    tokens: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(48, 96, 144, 192, 288)),
    k0: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 47 })),
    resets: fc.uniqueArray(fc.integer({ min: 0, max: 299 }), { maxLength: 4 }),
  });
  const check = ({ tokens, ...row }: { tokens: number; k0: number; resets: number[] }) => {
    const k0 = row.resets.includes(0) ? 0 : row.k0; // a chunk starts where a reset is
    const resets = Int32Array.from(row.resets.filter((t) => t < tokens)).sort();
    const table = new RowTableView(memory, 0, 1);
    table.write(0, { tokens, k0, last: true, phase: 0, count: tokens, resets, given: resets });
    const tail = Math.min(1, Math.floor((tokens + k0) / tileTokens));
    const tilesPerRow = tail + Math.ceil((tokens + k0 - tail * tileTokens) / tailTokens);
    const places = { x: 0, y: 0, adds: 0, times: 0, states: 0, table: 0, control: 0, reversed: 0 };
    const strides = { xRowBytes: 0, yRowBytes: 0, timesRowBytes: 0 };
    const window: Window = {
      ...{ rows: 1, every: 1, tileTokens, tail, tailTokens, tilesPerRow },
      ...places,
      ...strides,
    };
    const tile = noTile();
    let at = 0;
    for (let index = 0; index < tilesPerRow; index++) {
      if (!locate(tile, program, window, table, 0, index)) continue;
      expect(tile.x).toBe(4 * at * program.inputWidth);
      at += tile.tokens;
      expect(tile.tokens).toBeGreaterThan(0);
      expect(tile.last).toBe(at === tokens);
    }
    expect(at).toBe(tokens);
  };
  fc.assert(fc.property(row, check), { numRuns: 300, examples: [[{ tokens: 192, k0: 0, resets: [7] }]] });
});
