/** A worker's desk: what is put there arrives whole, and a message is asked for exactly when the worker does not look. */
import { describe, expect, test } from "vitest";
import { Desk } from "../src/cpu/desk.js";
import type { SharedJob } from "../src/cpu/protocol.js";

const window = {
  rows: 3,
  tileTokens: 240,
  tail: 7,
  tailTokens: 48,
  every: 2,
  tilesPerRow: 12,
  x: 2 ** 32 - 128,
  xRowBytes: 2 ** 31 + 4,
  y: 1024,
  yRowBytes: 64,
  reversed: 1,
  onto: 3072,
  states: 4096,
  table: 8192,
  control: 16384,
  times: 32768,
  timesRowBytes: 400,
};
const job: SharedJob = { program: 5, scratch: 3 * 2 ** 30, window };

describe.skipIf(typeof SharedArrayBuffer === "undefined")("a desk", () => {
  const caller = new Desk();
  const worker = new Desk(caller.buffer);

  test("a worker that never looked needs a message, and reads every field", () => {
    expect(caller.put(job)).toBe(false);
    expect(worker.read()).toEqual(job);
  });

  test("a worker that looks takes the job by itself", () => {
    worker.look();
    expect(caller.put({ ...job, program: 6 })).toBe(true);
    expect(worker.waitBriefly()).toBe(true);
    expect(worker.read().program).toBe(6);
  });

  test("a worker that has looked long enough is away", () => {
    worker.look();
    expect(worker.waitBriefly()).toBe(false);
    expect(caller.put(job)).toBe(false);
  });
});
