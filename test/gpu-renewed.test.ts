/** What is made on a GPU while it fails, or after its engine has ended; and what a cache of it has room and time for. */
import { afterEach, expect, test, vi } from "vitest";
import type { Resident } from "../src/backend.js";
import { Gpu } from "../src/engine/gpu.js";
import { Machine } from "../src/engine/machine.js";
import { createEngine, type Engine } from "../src/index.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu, WebgpuBackend } from "../src/webgpu/backend.js";
import { openDevice } from "../src/webgpu/device.js";
import { softwareTiles } from "../src/webgpu/tiles.js";
import { expectSameBits } from "./support/bits.js";
import { relativeError } from "./support/golden.js";
import { lruProgram, normed } from "./support/gpuJobs.js";
import { type Change, shrink, standInGpu } from "./support/gpus.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { playedGpu } from "./support/playedGpu.js";
import { floats, hardParams } from "./support/problems.js";

const [dModel, dState] = [6, 9];
const params = hardParams(dModel, dState, 1);

const engines: Engine[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(engines.splice(0).map((engine) => engine.dispose()));
});

type Context = { skip(reason: string): never };

async function open(context: Context, change: Change, wrap = (gpu: GPU): object => gpu) {
  let devices = 0;
  const changed = await standInGpu((handle, nth) => {
    devices++;
    change(handle, nth);
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const engine = await createEngine({
    backend: ["webgpu", "wasm"],
    threads: 0,
    gpu: wrap(changed.gpu as GPU),
  });
  engines.push(engine);
  return { engine, lru: await engine.lru(params), devices: () => devices };
}

/** Of the first `times` devices, none has room for states. */
function withoutStates(times: number): Change {
  return (handle, nth) => {
    const create = handle.createBuffer.bind(handle);
    handle.createBuffer = (descriptor) => {
      if (nth < times && descriptor.label === "states") throw new Error("out of order");
      return create(descriptor);
    };
  };
}

test("what fails late on a GPU that has been opened anew is no second failure of it", async (context) => {
  const changed = await standInGpu(() => {});
  if ("reason" in changed) return context.skip(changed.reason);
  const machine = await Machine.probe({ gpu: changed.gpu as GPU, threads: 0 }, () => true, vi.fn());
  const [first, lost] = [machine.backend("webgpu"), new Error("it was lost")];
  expect(await machine.renew(first, lost)).toBe(true);
  const second = machine.backend("webgpu");
  expect(second).not.toBe(first);
  expect(await machine.renew(first, lost)).toBe(true);
  expect(machine.backend("webgpu")).toBe(second);
  await machine.dispose();
});

test("a GPU that fails while a cache is made is opened anew, and the cache is there", async (context) => {
  const { engine, lru, devices } = await open(context, withoutStates(1));
  const cache = await lru.allocateGpuCache(2);
  const x = floats(3 * 2 * dModel, 2);
  const expected = await lru.stepMany(x, lru.allocateInferenceCache(2));
  expect(relativeError(await lru.stepMany(x, cache), expected)).toBeLessThan(2e-6);
  expect(devices()).toBe(2);
  expect(engine.backends.webgpu.available).toBe(true);
});

test("one that fails again gives no cache, and says so", async (context) => {
  const { engine, lru, devices } = await open(context, withoutStates(2));
  await expect(lru.allocateGpuCache(2)).rejects.toMatchObject({
    ...{ code: "gpu-failed", message: expect.stringMatching(/out of order/) },
  });
  expect(devices()).toBe(2);
  expect(engine.backends.webgpu.reason).toMatch(/failed twice.*out of order/);
  expectLinrecError(await errorOf(() => lru.allocateGpuCache(2)), "backend-unavailable", /failed twice/);
});

test("a cache has as many streams as the GPU binds, and no more", async (context) => {
  const bytes = 2 ** 13;
  const { engine, lru } = await open(context, (handle) => shrink(handle, bytes));
  const most = Math.floor(bytes / (8 * dState)); // h of a stream is dState pairs of float32
  await lru.allocateGpuCache(most);
  const error = await errorOf(() => lru.allocateGpuCache(most + 1));
  const says = new RegExp(`${most + 1} streams.*${8 * dState * (most + 1)} bytes.*at most ${bytes}`);
  expectLinrecError(error, "unsupported", says);
  expect(engine.backends.webgpu.available).toBe(true);
});

test("a cache whose states are more than a buffer has room for is read in parts", async (context) => {
  const bytes = 2 ** 13;
  const program = normed(4, 8); // two layers
  const slots = bytes / 64;
  const sizes: number[] = [];
  const changed = await standInGpu((handle) => {
    shrink(handle, bytes);
    const create = handle.createBuffer.bind(handle);
    handle.createBuffer = (descriptor) => {
      sizes.push(descriptor.size);
      return create(descriptor);
    };
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const opened = await openWebgpu(changed.gpu);
  if ("reason" in opened) return context.skip(opened.reason);
  const resident = (await (await opened.backend.prepare(program)).resident?.(slots)) as Resident;
  const state = new State(stateLayout(program), slots);
  for (const slot of state.layout.slots)
    for (let row = 0; row < slots; row++) state.write(slot, row, floats(8, row), floats(8, row + slots));
  await resident.write(
    Int32Array.from({ length: slots }, (_, row) => row),
    state,
  );
  const rows = Int32Array.from({ length: slots }, (_, i) => slots - 1 - i);
  const read = await resident.read(rows);
  for (const slot of state.layout.slots)
    for (const [i, row] of rows.entries()) expect(read.read(slot, i)).toEqual(state.read(slot, row));
  expect(Math.max(...sizes)).toBe(bytes);
  opened.backend.dispose();
});

test("many steps on a GPU are given time for each of their tokens, as long as a token's work takes", async (context) => {
  const { engine } = await open(context, () => {});
  const timer = vi.spyOn(globalThis, "setTimeout");
  /** What a step adds to the time that is given. */
  const given = async (dState: number, streams: number) => {
    const lru = await engine.lru(hardParams(dModel, dState, 1));
    const cache = await lru.allocateGpuCache(streams);
    const deadlines: number[] = [];
    for (const steps of [1, 3, 23]) {
      timer.mockClear();
      await lru.stepMany(floats(steps * streams * dModel, 2), cache);
      deadlines.push(Math.max(...timer.mock.calls.map(([, ms]) => ms ?? 0)));
    }
    return ((deadlines[2] as number) - (deadlines[1] as number)) / 20;
  };
  const few = await given(9, 4);
  expect(few).toBeGreaterThan(0);
  expect((await given(9, 12)) / few).toBeCloseTo(3, 3);
  expect((await given(14, 4)) / few).toBeGreaterThan(1.2);
});

test("a step of more streams than the GPU takes at a time is that of some and the others", async (context) => {
  const wide = 40;
  const { engine } = await open(context, (handle) => shrink(handle, 2 ** 13)); // x of 51 streams
  const lru = await engine.lru(hardParams(wide, 3, 1));
  const [streams, steps] = [130, 2];
  const x = floats(steps * streams * wide, 3);
  const [cache, own] = [await lru.allocateGpuCache(streams), lru.allocateInferenceCache(streams)];
  const expected = await lru.stepMany(x, own);
  expect(relativeError(await lru.stepMany(x, cache), expected)).toBeLessThan(2e-6);
  expect(relativeError((await cache.read()).get().re, own.get().re)).toBeLessThan(2e-6);
});

test("weights that the GPU cannot bind: a demand for it says so, else the CPU computes", async (context) => {
  const { engine } = await open(context, (handle) => shrink(handle, 2 ** 13));
  const lru = await engine.lru(hardParams(40, 40, 1));
  const x = floats(3 * 40, 2);
  const error = await errorOf(() => lru.forward(x, { backend: "webgpu" }));
  expectLinrecError(error, "unsupported", /weights take 12800 bytes.*at most 8192/);
  const { y } = await lru.forward(x);
  expectSameBits(y, (await lru.forward(x, { backend: "wasm" })).y, "y");
  expect(engine.backends.webgpu.available).toBe(true);
});

test("nobody is given a GPU before it has been measured, when it is opened and when it is anew", async () => {
  const speeds = { roundTripMs: 1, dispatchMs: 1, uploadBytesPerMs: 1e6, readbackBytesPerMs: 1e6 };
  const events: string[] = [];
  const measure = WebgpuBackend.prototype.measure;
  vi.spyOn(WebgpuBackend.prototype, "measure").mockImplementation(async function (this: WebgpuBackend) {
    events.push("asked");
    const rates = await measure.call(this);
    events.push("measured");
    return rates;
  });
  const host = { disposed: false, use: () => events.push("used"), giveUp: () => events.push("given up") };
  const gpu = new Gpu(host, playedGpu(speeds));
  await gpu.open();
  await gpu.renew(new Error("lost"));
  expect(events).toEqual(["asked", "measured", "used", "asked", "measured", "used"]);
});

test("a step of which a part throws while others are under way rejects once", async (context) => {
  const opened = await openDevice();
  if ("reason" in opened) return context.skip(opened.reason);
  const { handle } = opened.device;
  const backend = new WebgpuBackend(opened.device, softwareTiles);
  const runner = await backend.prepare(lruProgram(4, 4), 2000); // bytes for a few of the streams
  const streams = 64;
  const resident = (await runner.resident?.(streams)) as Resident;
  const create = handle.createBuffer.bind(handle);
  let readbacks = 0;
  handle.createBuffer = (descriptor) => {
    if (descriptor.usage & 1 && readbacks++ === 2) throw new RangeError("no memory");
    return create(descriptor);
  };
  const x = floats(4 * streams, 1);
  const step = resident.step({
    ...{ x, y: x.slice(), ports: undefined, timesteps: undefined, steps: 1, streams },
    ...{ rows: Int32Array.from({ length: streams }, (_, row) => row) },
    ...{ fresh: new Uint8Array(streams).fill(1), counts: new Float32Array(streams).fill(1) },
  });
  await expect(step).rejects.toMatchObject({ code: "out-of-memory" });
  backend.dispose();
  // Of the parts before it nobody hears again: a rejection of theirs that is nobody's fails the run.
  await new Promise((turn) => setTimeout(turn, 1));
});

test("a GPU that is opened anew after its engine has ended is let go", async (context) => {
  let [goOn, asked] = [() => {}, 0];
  const handles: GPUDevice[] = [];
  const late = (gpu: GPU) => ({
    async requestAdapter() {
      if (asked++ > 0)
        await new Promise<void>((resolve) => {
          goOn = resolve;
        });
      return gpu.requestAdapter();
    },
  });
  const { engine, lru } = await open(context, (handle) => handles.push(handle), late);
  handles[0]?.destroy();
  const error = errorOf(() => lru.forward(floats(dModel * 50, 2), { backend: "webgpu" }));
  await vi.waitFor(() => expect(asked).toBe(2));
  await engine.dispose();
  expectLinrecError(await error, "disposed", /engine has been disposed of/);
  goOn();
  await vi.waitFor(() => expect(handles).toHaveLength(2));
  let isLost = false;
  handles[1]?.lost.then(() => {
    isLost = true;
  });
  await vi.waitFor(() => expect(isLost).toBe(true));
});
