/** The WASM memory's blocks: aligned, apart, given again once freed (later, where an ended thread may still write), and an error where there is no more. */
import { afterEach, expect, test, vi } from "vitest";
import { Arena } from "../src/cpu/arena.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { random } from "./support/problems.js";

const PAGE = 65_536;
const arenaOf = (maximum: number) => new Arena(new WebAssembly.Memory({ initial: 1, maximum }));

test("blocks are aligned, within memory, and never overlap, whatever is freed in between", () => {
  const arena = arenaOf(64);
  const next = random(1);
  const blocks = new Map<number, number>();
  const wrong: number[] = [];
  for (let i = 0; i < 2000; i++) {
    if (next() < 0.55) {
      const bytes = Math.floor(3000 * next() ** 3);
      const start = arena.allocate(bytes);
      const isPlaced = start > 0 && start % 128 === 0 && start + bytes <= arena.memory.buffer.byteLength;
      const isApart = [...blocks].every(
        ([other, length]) => start >= other + length || start + Math.max(bytes, 1) <= other,
      );
      if (!isPlaced || !isApart) wrong.push(start);
      blocks.set(start, bytes);
    } else {
      const start = [...blocks.keys()][Math.floor(blocks.size * next())];
      if (start === undefined) continue;
      arena.free(start);
      blocks.delete(start);
    }
  }
  expect(wrong).toEqual([]);
  for (const start of blocks.keys()) arena.free(start);
  expect(arena.used).toBe(0);
});

test("what is freed is given again: neighbours as one, in any order", () => {
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [0, 2, 1],
    [1, 2, 0],
  ]) {
    const arena = arenaOf(2);
    const blocks = [1000, 2000, 3000].map((bytes) => arena.allocate(bytes));
    const last = arena.allocate(128);
    expect(arena.used).toBe(1024 + 2048 + 3072 + 128);
    for (const i of order) arena.free(blocks[i] as number);
    arena.free(blocks[1] as number); // twice: ignored
    expect(arena.used).toBe(128);
    const all = arena.allocate(1024 + 2048 + 3072);
    expect(all).toBe(blocks[0]);
    arena.free(all);
    // A part of it, and the rest.
    expect(arena.allocate(128)).toBe(blocks[0]);
    expect(arena.allocate(128)).toBe((blocks[0] as number) + 128);
    expect(arena.allocate(128), "not what is in use").not.toBe(last);
  }
});

test("memory grows as far as it may, then out-of-memory, and what there is stays usable", async () => {
  const arena = arenaOf(3);
  const first = arena.allocate(2.5 * PAGE);
  expect(arena.memory.buffer.byteLength).toBe(3 * PAGE);
  const error = await errorOf(() => arena.allocate(PAGE));
  expectLinrecError(error, "out-of-memory", /WASM memory could not grow from 196608 to .* bytes/);
  expect(arena.used).toBe(2.5 * PAGE);
  arena.free(first);
  expect(arena.allocate(PAGE)).toBe(first);
});

afterEach(() => {
  vi.useRealTimers();
});

/** Chromium's worker.terminate() lets a busy thread go on for two seconds (2011 ms were measured): Blink's kForcibleTerminationDelay. */
const CHROMIUM_MS = 2100;

test("what an ended thread may still write to is used again later, and not before", () => {
  vi.useFakeTimers();
  const arena = new Arena(new WebAssembly.Memory({ initial: 1 }));
  const blocks = [arena.allocate(1000), arena.allocate(1000), 0];
  const used = arena.used;
  arena.freeLater(blocks);
  vi.advanceTimersByTime(CHROMIUM_MS);
  expect(arena.used).toBe(used);
  const other = arena.allocate(1000);
  expect(blocks).not.toContain(other);
  vi.runAllTimers();
  expect(arena.used).toBe(used / 2); // the other's
  expect(arena.allocate(2000)).toBe(blocks[0]); // the two are one block again
  arena.free(other);
  vi.runAllTimers();
  expect(vi.getTimerCount()).toBe(0);
});
