/** What is found out of a GPU by timing it: on one that takes as long as it is told to. */
import { afterEach, expect, test, vi } from "vitest";
import { WebgpuBackend } from "../src/webgpu/backend.js";
import { type Device, openDevice } from "../src/webgpu/device.js";
import { Pipelines, shaderOf } from "../src/webgpu/pipelines.js";
import { plainTiles, type Tile, tilesFor } from "../src/webgpu/tiles.js";
import { tune } from "../src/webgpu/tune.js";
import { playedGpu, type Speeds } from "./support/playedGpu.js";

afterEach(() => vi.restoreAllMocks());

const speeds: Speeds = {
  ...{ roundTripMs: 0.75, dispatchMs: 0.125, uploadBytesPerMs: 3e5, readbackBytesPerMs: 2e5 },
};

async function open(given: Speeds): Promise<Device> {
  const opened = await openDevice(playedGpu(given));
  if ("reason" in opened) throw new Error(opened.reason);
  return opened.device;
}

test("what dispatches, bytes and the way there and back take is measured as it is", async () => {
  const device = await open(speeds);
  const rates = await new WebgpuBackend(device, plainTiles).measure();
  expect(rates.dispatchMs / speeds.dispatchMs).toBeCloseTo(1, 2);
  expect(rates.uploadBytesPerMs / speeds.uploadBytesPerMs).toBeCloseTo(1, 2);
  expect(rates.readbackBytesPerMs / speeds.readbackBytesPerMs).toBeCloseTo(1, 2);
  expect(rates.roundTripMs / speeds.roundTripMs).toBeCloseTo(1, 1);
  expect(Math.log2(device.flopsPerMs) % 1).toBe(0);
  device.dispose();
});

test("where the clock ticks once in a millisecond, nothing that takes less is taken for nothing", async () => {
  for (const roundTripMs of [0.15, 0.4, 0.9]) {
    const device = await open({ ...speeds, roundTripMs, tickMs: 1 });
    const rates = await new WebgpuBackend(device, plainTiles).measure();
    for (const name of ["roundTripMs", "uploadBytesPerMs", "readbackBytesPerMs"] as const) {
      const isOff = rates[name] / (name === "roundTripMs" ? roundTripMs : speeds[name]);
      expect(isOff, `${name} of ${roundTripMs} ms`).toBeGreaterThan(0.6);
      expect(isOff, `${name} of ${roundTripMs} ms`).toBeLessThan(1.6);
    }
    device.dispose();
  }
});

test("where the clock does not move at all, nothing is endlessly fast", async () => {
  const still = { roundTripMs: 0, dispatchMs: 0, uploadBytesPerMs: 1e300, readbackBytesPerMs: 1e300 };
  const device = await open(still);
  const rates = await new WebgpuBackend(device, plainTiles).measure();
  for (const [name, rate] of Object.entries(rates)) {
    expect(rate, name).toBeGreaterThanOrEqual(0);
    expect(rate, name).toBeLessThan(1e12);
  }
  expect(device.flopsPerMs).toBeGreaterThan(1);
  expect(device.flopsPerMs).toBeLessThan(1e15);
  device.dispose();
});

test("of a kernel's tiles the fastest is taken, and none for less than a twentieth of its time", async () => {
  for (const [times, taken] of [
    [[1, 0.97, 1.1], 0],
    [[1, 0.97, 0.5], 2],
    [[1, 0.5, 0.49], 1],
    [[1, 0.5, 0.2], 2],
  ] as const) {
    let tiles: Tile[] = [];
    const runs = new Map<number, number>();
    const shaderMs = (code: string) => {
      const tile = tiles.findIndex((tile) => shaderOf("dense", tile) === code);
      if (tile < 0) return 1;
      // Something disturbs the first try of each tile but the plain one.
      runs.set(tile, (runs.get(tile) ?? 0) + 1);
      return (times[tile] ?? 3) * (tile > 0 && runs.get(tile) === 1 ? 100 : 1);
    };
    const device = await open({ ...speeds, dispatchMs: 0, roundTripMs: 0.01, shaderMs });
    tiles = tilesFor("dense", device);
    expect(tiles.length).toBeGreaterThan(2);
    const best = await tune(device, new Pipelines(device), 16, 4);
    expect(best.dense, `${times}`).toEqual(tiles[taken]);
    expect(best.projectScan).toEqual(plainTiles.projectScan); // all of its tiles take as long
    expect(best.liftedOutput).toEqual(best.output);
    device.dispose();
  }
});

test("of tiles the fastest is taken where the clock ticks once in a millisecond, too", async () => {
  for (const [roundTripMs, ms] of [0.15, 0.3, 0.4].flatMap((trip) =>
    [0.02, 0.1, 0.4].map((ms) => [trip, ms] as const),
  )) {
    let tiles: Tile[] = [];
    const times = [1, 1.5, 0.7, 2];
    const shaderMs = (code: string) => {
      const tile = tiles.findIndex((tile) => shaderOf("dense", tile) === code);
      return ms * (tile < 0 ? 1 : (times[tile] ?? 3));
    };
    const device = await open({ ...speeds, dispatchMs: 0, roundTripMs, tickMs: 1, shaderMs });
    tiles = tilesFor("dense", device);
    const best = await tune(device, new Pipelines(device), 16, 4);
    expect(best.dense, `${ms} ms, there and back in ${roundTripMs} ms`).toEqual(tiles[2]);
    device.dispose();
  }
});

test("where the GPU is slow to answer, not every tile is tried", async () => {
  let submits = 0;
  const shaderMs = () => {
    submits++;
    return 0;
  };
  const count = async (roundTripMs: number) => {
    submits = 0;
    const device = await open({ ...speeds, roundTripMs, shaderMs });
    const kinds = tilesFor("dense", device).length;
    const best = await tune(device, new Pipelines(device), 16, 4);
    device.dispose();
    return { best, kinds };
  };
  const { kinds } = await count(0.01);
  expect(submits).toBeGreaterThan(4 * kinds);
  const fast = submits;
  const { best } = await count(250);
  expect(submits).toBeLessThan(fast / 3);
  expect(best).toEqual(plainTiles);
});
