/** How long, and how often, the CPU is measured: its clock is played here. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";

beforeEach(() => vi.resetModules()); // a process measures twice
afterEach(() => vi.restoreAllMocks());

async function open() {
  const { openWasm } = await import("../src/cpu/backend.js");
  const rest = { workerUrl: undefined, wasm: undefined, onTrouble() {} };
  return openWasm({ simd: "baseline", threads: 0, sharedMemory: false, ...rest });
}

test("a clock that stands still ends the measurement, which then says what is typical", async () => {
  const backend = await open();
  vi.spyOn(performance, "now").mockReturnValue(1234);
  const rate = backend.measure();
  vi.restoreAllMocks();
  backend.dispose();
  expect(rate).toBeGreaterThan(1e6); // 1 GFLOP/s
  expect(rate).toBeLessThan(1e8);
});

/** How often the clock was read, by a measurement that finds these times. */
async function readings(times: number[]): Promise<number> {
  const backend = await open();
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

test.each([
  ["faster", 4, 2],
  ["slower", 4, 8],
])(
  "once more after half a second, when it is %s: the larger counts, and for good",
  async (_, first, second) => {
    const backend = await open();
    let [now, tick] = [0, first];
    const clock = vi.spyOn(performance, "now").mockImplementation(() => (now += tick));
    const at = (ms: number) => {
      now = ms;
      clock.mockClear();
      return { rate: backend.measure(), read: clock.mock.calls.length };
    };
    const before = at(1000);
    expect(before.read).toBeGreaterThan(3);
    tick = second;
    for (const ms of [1100, 1400]) expect(at(ms)).toEqual({ rate: before.rate, read: 1 });
    const after = at(1600);
    expect(after.read).toBeGreaterThan(3);
    expect(after.rate / before.rate).toBeCloseTo(Math.max(1, first / second));
    for (const ms of [1700, 2300, 1e9]) expect(at(ms)).toEqual({ rate: after.rate, read: 1 });
    backend.observe(10 * after.rate);
    expect(at(2e9).rate).toBe(10 * after.rate);
    backend.dispose();
  },
);
