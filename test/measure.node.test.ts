/** How long the CPU is measured: its clock is played here. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";

beforeEach(() => vi.resetModules()); // a process measures once
afterEach(() => vi.restoreAllMocks());

test("a clock that stands still ends the measurement, which then says what is typical", async () => {
  const { openWasm } = await import("../src/cpu/backend.js");
  const rest = { workerUrl: undefined, wasm: undefined, onTrouble() {} };
  const backend = await openWasm({ simd: "baseline", threads: 0, sharedMemory: false, ...rest });
  vi.spyOn(performance, "now").mockReturnValue(1234);
  const rate = backend.measure();
  vi.restoreAllMocks();
  backend.dispose();
  expect(rate).toBeGreaterThan(1e6); // 1 GFLOP/s
  expect(rate).toBeLessThan(1e8);
});

/** How often the clock was read, by a measurement that finds these times. */
async function readings(times: number[]): Promise<number> {
  const { openWasm } = await import("../src/cpu/backend.js");
  const rest = { workerUrl: undefined, wasm: undefined, onTrouble() {} };
  const backend = await openWasm({ simd: "baseline", threads: 0, sharedMemory: false, ...rest });
  let read = 0;
  vi.spyOn(performance, "now").mockImplementation(() => times[read++] ?? Number.NaN);
  backend.measure();
  vi.restoreAllMocks();
  backend.dispose();
  return read;
}

test.each([
  ["three times without a twentieth less", [0, 5, 9.75, 14.75], [19.75]],
  ["20 ms, while it gets faster", [0, 10, 15, 18, 20], [21]],
  ["2 ms for each time", [0, 1, 2, 3, 4, 5, 6], [7, 8]],
])("until %s", async (_, times, beyond) => {
  expect(await readings([...times, ...beyond])).toBe(times.length);
});
