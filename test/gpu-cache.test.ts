/** Caches on the GPU: each stream gives what it gives alone, and nothing crosses but what must. */
import { afterAll, beforeAll, describe, expect, type Mock, test, vi } from "vitest";
import { createEngine, type Engine, type GpuBuffer, type GpuCache, initLru, type Lru } from "../src/index.js";
import { paired } from "./support/conjugates.js";
import { relativeError } from "./support/golden.js";
import { failScopes } from "./support/gpus.js";
import { randomClassifier } from "./support/lrnnx.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";
import { alone, callsOf, isOneRate, loadLayer, names, SLOTS } from "./support/streams.js";
import { download, upload, useWatchedEngine, type Watched, watchedEngine } from "./support/watched-gpu.js";

/** GPUBufferUsage by value: Node has no such global. */
const [MAP_READ, COPY_SRC, COPY_DST] = [1, 4, 8];

const gpu = useWatchedEngine();
const { gpuTest } = gpu;
/** On the CPU. */
let cpu: Engine;

beforeAll(async () => {
  const second = await watchedEngine(true);
  if (!("reason" in second)) poisoned = second;
  cpu = await createEngine({ backend: "wasm", threads: 0 });
});
afterAll(async () => {
  await poisoned?.engine.dispose();
  await cpu.dispose();
});

interface Stepper {
  step(x: unknown, cache: GpuCache, options: object): Promise<Float32Array>;
  stepMany(x: unknown, cache: GpuCache, options: object): Promise<Float32Array>;
  allocateGpuCache(batch: number): Promise<GpuCache>;
}

/** Whose buffers hold NaN until they are written. */
let poisoned: Watched | undefined;

describe.each(names.filter((name, i) => isOneRate(name) && i % 2 === 0))("%s", (name) => {
  gpuTest("some streams, many steps, none awaited = one by one on the CPU", async () => {
    const { engine } = poisoned as Watched;
    const layer = await loadLayer(engine, name);
    const onGpu = layer as unknown as Stepper;
    const calls = callsOf(layer, 5, true);
    const expected = alone(await loadLayer(cpu, name), calls);
    const cache = await onGpu.allocateGpuCache(SLOTS);
    const pending = calls.map(({ x, steps, options }) =>
      steps === 1 ? onGpu.step(x, cache, options) : onGpu.stepMany(x, cache, options),
    );
    for (const [i, y] of (await Promise.all(pending)).entries()) {
      const wanted = expected.ys[i] as Float32Array;
      expect(y.length).toBe(wanted.length);
      if (y.length > 0) expect(relativeError(y, wanted), `call ${i}`).toBeLessThan(5e-5);
    }
    const [all, some] = [await cache.read(), await cache.read(Int32Array.of(4, 1))];
    for (const [row, own] of expected.caches.entries()) {
      expect([all.tokens[row], cache.tokens[row]]).toEqual([own.tokens[0], own.tokens[0]]);
      for (const [i, { re, im }] of [own.get()].flat().entries()) {
        const part = (values: Float32Array | undefined, at = row) =>
          (values as Float32Array).subarray(at * re.length, (at + 1) * re.length);
        const layers = [all.get()].flat();
        expect(relativeError(part(layers[i]?.re), re), `re of layer ${i}, row ${row}`).toBeLessThan(5e-5);
        expect(relativeError(part(layers[i]?.im), im), `im of layer ${i}, row ${row}`).toBeLessThan(5e-5);
        if (row === 4) expect(part([some.get()].flat()[i]?.re, 0)).toEqual(part(layers[i]?.re));
        if (row === 1) expect(part([some.get()].flat()[i]?.re, 1)).toEqual(part(layers[i]?.re));
      }
    }
    cache.dispose();
    layer.dispose();
  });
});

gpuTest(
  "states that come in conjugate pairs, and states that do not, written to such a layer",
  async ({ engine }) => {
    const params = paired(hardParams(4, 3, 2), "another C");
    const [lru, onCpu] = [await engine.lru(params), await cpu.lru(params)];
    const start = onCpu.allocateInferenceCache(3);
    start.set(floats(3 * 6, 1), floats(3 * 6, 2));
    start.reset([1]);
    const cache = await lru.allocateGpuCache(3);
    await cache.write(lru.deserializeState(onCpu.serializeState(start)));
    const x = floats(5 * 3 * 4, 3);
    expect(relativeError(await lru.stepMany(x, cache), await onCpu.stepMany(x, start))).toBeLessThan(2e-6);
    expect(relativeError((await cache.read()).get().re, start.get().re)).toBeLessThan(2e-6);
    lru.dispose();
  },
);

gpuTest(
  "a mean of 20,000 equal tokens loses none, and goes from the GPU to the CPU and back",
  async ({ engine }) => {
    const { checkpoint, spec: own } = randomClassifier(8, { features: 1 });
    const spec = { ...own, intermediatePooling: "none", pooling: "mean" } as const;
    const [model, onCpu] = [await engine.model(checkpoint, spec), await cpu.model(checkpoint, spec)];
    const [cache, there] = [await model.allocateGpuCache(1), onCpu.allocateInferenceCache()];
    const x = new Float32Array(20_000).fill(1);
    const expected = await onCpu.stepMany(x, there);
    expect(relativeError(await model.stepMany(x, cache), expected)).toBeLessThan(5e-5);
    const back = onCpu.deserializeState(model.serializeState(await cache.read()));
    await cache.write(model.deserializeState(onCpu.serializeState(there)));
    const [xt, wanted] = [Float32Array.of(-1), onCpu.stepSync(Float32Array.of(-1), there)];
    expect(relativeError(onCpu.stepSync(xt, back), wanted)).toBeLessThan(5e-5);
    expect(relativeError(await model.step(xt, cache), wanted)).toBeLessThan(5e-5);
    cache.dispose();
    model.dispose();
  },
);

describe("a layer", () => {
  const dModel = 5;
  const params = initLru({ dModel, dState: 7, rMin: 0.9, rMax: 0.999, seed: 3 });
  const x = floats(6 * 4 * dModel, 8);
  let lru: Lru;

  beforeAll(async () => {
    if (gpu.watched) lru = await gpu.watched.engine.lru(params);
  });

  /** What the CPU gives, from zeros. */
  async function expectedY(): Promise<Float32Array> {
    const layer = await cpu.lru(params);
    return layer.stepMany(x, layer.allocateInferenceCache(4));
  }

  gpuTest("one submit a call, x up and y down once, and of the state nothing", async ({ traffic }) => {
    const cache = await lru.allocateGpuCache(4);
    await lru.stepMany(x, cache); // the first makes room
    for (const steps of [1, 6]) {
      const part = x.subarray(0, steps * 4 * dModel);
      const before = { ...traffic };
      await lru.stepMany(part, cache);
      expect(traffic.submits - before.submits).toBe(1);
      expect(traffic.up - before.up).toBe(part.byteLength + 8 * steps * 4); // and 8 bytes a token to say which it is
      expect(traffic.down - before.down).toBe(part.byteLength);
    }
    cache.dispose();
  });

  gpuTest("thousands of streams, all and some of them, = the CPU", async () => {
    const streams = 3000;
    const [onGpu, layer] = [await lru.allocateGpuCache(streams), await cpu.lru(params)];
    const cache = layer.allocateInferenceCache(streams);
    const rows = Int32Array.from({ length: 1100 }, (_, i) => (7 * i + 2999) % streams);
    for (const options of [{}, { rows }, {}]) {
      const xt = floats((options.rows ?? cache.tokens).length * dModel, 4);
      const expected = layer.stepSync(xt, cache, options);
      expect(relativeError(await lru.step(xt, onGpu, options), expected)).toBeLessThan(2e-6);
    }
    expect(relativeError((await onGpu.read()).get().re, cache.get().re)).toBeLessThan(2e-6);
    onGpu.dispose();
    layer.dispose();
  });

  gpuTest("from a GPUBuffer and to one: neither x nor y crosses", async ({ device, traffic }) => {
    const cache = await lru.allocateGpuCache(4);
    const xs = upload(device, x);
    const out = device.createBuffer({ size: x.byteLength, usage: COPY_SRC | COPY_DST });
    await lru.stepMany(x, cache); // the first makes room
    cache.reset();
    const before = { ...traffic };
    const y = await lru.stepMany(xs as GpuBuffer, cache, { out: out as GpuBuffer });
    expect(y).toBe(out);
    expect(traffic.up - before.up).toBe(8 * 6 * 4);
    expect(traffic.down).toBe(before.down);
    const expected = await expectedY();
    expect(relativeError(await download(device, out), expected)).toBeLessThan(2e-6);
    cache.reset();
    const array: Float32Array = await lru.stepMany(xs, cache); // where out says nothing, y is an array
    expect(relativeError(array, expected)).toBeLessThan(2e-6);
    cache.dispose();
  });

  gpuTest("timesteps that all differ, in turns with none, = the CPU", async () => {
    const layer = await cpu.lru(params);
    const [cache, own] = [await lru.allocateGpuCache(4), layer.allocateInferenceCache(4)];
    let [rows, value] = [0, 0];
    for (const [steps, timed] of [
      [1, true],
      [2, false],
      [2, true],
      [1, true],
      [6, false],
      [6, true],
      [3, true],
      [5, false],
    ] as const) {
      const part = floats(steps * 4 * dModel, 20 + rows++);
      const integrationTimesteps = timed
        ? Float32Array.from({ length: 4 * steps }, () => ++value / 16)
        : undefined;
      const given = integrationTimesteps?.slice();
      const pending = lru.stepMany(part, cache, { integrationTimesteps });
      integrationTimesteps?.fill(9); // it is the caller's again
      const expected = await layer.stepMany(part, own, { integrationTimesteps: given });
      expect(relativeError(await pending, expected), `call ${rows}`).toBeLessThan(2e-6);
    }
    cache.dispose();
    layer.dispose();
  });

  gpuTest("write, read and reset: a state goes in and out, by rows", async () => {
    const layer = await cpu.lru(params);
    const start = layer.allocateInferenceCache(4);
    layer.stepSync(x.subarray(0, 4 * dModel), start);
    const saved = lru.deserializeState(layer.serializeState(start));
    const cache = await lru.allocateGpuCache(6);
    await cache.write(saved, Int32Array.of(5, 0, 2, 3));
    const rest = x.subarray(4 * dModel, 8 * dModel);
    const rows = Int32Array.of(5, 0, 2, 3);
    expect(relativeError(await lru.step(rest, cache, { rows }), layer.stepSync(rest, start))).toBeLessThan(
      2e-6,
    );
    expect([...cache.tokens]).toEqual([2, 0, 2, 2, 0, 2]);
    const untouched = (await cache.read(Int32Array.of(4))).get();
    expect(untouched.re.every((value) => value === 0)).toBe(true);
    cache.reset(Int32Array.of(5));
    const out = await cache.read(rows);
    expect([...out.tokens]).toEqual([0, 2, 2, 2]);
    const [actual, expected] = [out.get().re, start.get().re];
    expect(actual.subarray(0, 7).every((value) => value === 0)).toBe(true);
    expect(relativeError(actual.subarray(7), expected.subarray(7))).toBeLessThan(2e-6);
    cache.dispose();
  });

  gpuTest("what is wrong is refused before anything runs", async ({ device, traffic, engine }) => {
    const cache = await lru.allocateGpuCache(4);
    const ordinary = lru.allocateInferenceCache(4);
    const other = await engine.lru(params);
    const buffer = (size: number, usage: number) => device.createBuffer({ size, usage });
    const xt = x.subarray(0, 4 * dModel);
    const [xs, mapped] = [upload(device, x.slice(0, 4 * dModel)), buffer(xt.byteLength, COPY_DST | MAP_READ)];
    await mapped.mapAsync(MAP_READ);
    const before = { ...traffic };
    // biome-ignore format: one line for each
    const misuses: [RegExp, string, () => unknown][] = [
      [/on the GPU.*read\(\)/, "invalid-argument", () => lru.stepSync(xt, cache as never)],
      [/on the GPU.*read\(\)/, "invalid-argument", () => lru.forward(x, { batch: 4, state: cache as never })],
      [/on the GPU.*read\(\)/, "invalid-argument", () => lru.serializeState(cache as never)],
      [/belongs to another/, "foreign-cache", () => other.step(xt, cache)],
      [/belongs to another/, "foreign-cache", () => cache.write(other.allocateInferenceCache(4))],
      [/4 streams, to 2 rows/, "shape-mismatch", () => cache.write(ordinary, Int32Array.of(0, 1))],
      [/rows\[1\] is 9/, "invalid-argument", () => cache.read(Int32Array.of(0, 9))],
      [/once/, "invalid-argument", () => cache.reset(Int32Array.of(0, 0))],
      [/without GPUBufferUsage.COPY_SRC/, "invalid-argument", () => lru.step(buffer(xt.byteLength, COPY_DST), cache)],
      [/without GPUBufferUsage.COPY_DST/, "invalid-argument", () => lru.step(xt, cache, { out: buffer(xt.byteLength, COPY_SRC) })],
      [/that is mapped/, "invalid-argument", () => lru.step(xt, cache, { out: mapped })],
      [/one GPUBuffer/, "invalid-argument", () => { const both = buffer(xt.byteLength, COPY_SRC | COPY_DST); return lru.step(both, cache, { out: both }); }],
      [/xt has 2 values/, "shape-mismatch", () => lru.step(buffer(8, COPY_SRC), cache)],
      [/out has 21 values/, "shape-mismatch", () => lru.step(xt, cache, { out: buffer(84, COPY_DST) })],
      [/integrationTimesteps\[3\] is -1/, "invalid-argument", () => lru.step(xt, cache, { integrationTimesteps: Float32Array.of(1, 1, 1, -1) })],
      [/cannot take a GPUBuffer.*allocateGpuCache/, "unsupported", () => lru.step(xs, ordinary)],
      [/reset must be an array/, "shape-mismatch", () => lru.step(xt, cache, { reset: [true] })],
    ];
    for (const [says, code, call] of misuses)
      expectLinrecError(await errorOf(async () => call()), code as never, says);
    expect(traffic.submits).toBe(before.submits);
    expect([...cache.tokens]).toEqual([0, 0, 0, 0]);
    await cache[Symbol.asyncDispose]();
    cache.dispose();
    expectLinrecError(await errorOf(() => lru.step(xt, cache)), "disposed", /disposed of/);
    const orphan = await other.allocateGpuCache(2);
    const pending = errorOf(() => other.step(xt.subarray(0, 2 * dModel), orphan));
    other.dispose();
    expectLinrecError(await pending, "disposed", /disposed of/);
  });

  gpuTest("a cache that is being made while its layer is disposed of is, too", async ({ engine }) => {
    const layer = await engine.lru(params);
    const making = layer.allocateGpuCache(2);
    layer.dispose();
    const error = await errorOf(async () => (await making).read());
    expectLinrecError(error, "disposed", /disposed of/);
  });

  gpuTest("a cache for which the GPU has no memory leaves nothing there", async ({ device }) => {
    (await lru.allocateGpuCache(4)).dispose(); // its kernels are there
    const kept = new Set<GPUBuffer>();
    const create = device.createBuffer.bind(device);
    const creating = vi.spyOn(device, "createBuffer").mockImplementation((descriptor) => {
      const buffer = create(descriptor);
      const destroy = buffer.destroy.bind(buffer);
      kept.add(buffer);
      buffer.destroy = () => {
        kept.delete(buffer);
        return destroy();
      };
      return buffer;
    });
    failScopes(device, (nth) => nth === 1);
    await expect(lru.allocateGpuCache(4)).rejects.toMatchObject({ code: "out-of-memory" });
    expect(creating).toHaveBeenCalled();
    expect(kept.size).toBe(0);
    creating.mockRestore();
  });

  gpuTest("a step, or a write, for which there is no memory leaves the cache as it was", async () => {
    const [cache, own] = [await lru.allocateGpuCache(4), lru.allocateInferenceCache(4)];
    const xt = x.slice(0, 4 * dModel);
    const other = lru.allocateInferenceCache(4);
    await lru.step(xt, other);
    for (const each of [cache, own] as never[]) await lru.step(xt, each);
    for (const each of [cache, own]) each.reset(Int32Array.of(1));
    const none = () => {
      throw new RangeError("Array buffer allocation failed");
    };
    const slicing = vi.spyOn(Float32Array.prototype, "slice").mockImplementation(none);
    const stepping = errorOf(() => lru.step(xt, cache, { reset: [0, 0, 1, 0] }));
    slicing.mockRestore();
    const reading = vi.spyOn(other.state, "read").mockImplementation(none);
    const writing = errorOf(() => cache.write(other));
    reading.mockRestore();
    for (const error of [await stepping, await writing])
      expectLinrecError(error, "out-of-memory", /could not be had/);
    expect([...cache.tokens]).toEqual([1, 0, 1, 1]);
    expect(relativeError(await lru.step(xt, cache), await lru.step(xt, own))).toBeLessThan(2e-6);
    cache.dispose();
  });

  gpuTest("what a step was to be read from is freed if it cannot be", async ({ device }) => {
    const cache = await lru.allocateGpuCache(4);
    const create = device.createBuffer.bind(device);
    const freed: Mock[] = [];
    const creating = vi.spyOn(device, "createBuffer").mockImplementation((descriptor) => {
      const buffer = create(descriptor);
      if (!(descriptor.usage & MAP_READ)) return buffer;
      buffer.mapAsync = () => Promise.reject(new Error("no map"));
      freed.push(vi.spyOn(buffer, "destroy"));
      return buffer;
    });
    await expect(lru.step(x.slice(0, 4 * dModel), cache)).rejects.toMatchObject({ code: "gpu-failed" });
    expect(freed.length).toBe(1);
    expect(freed[0]).toHaveBeenCalled();
    creating.mockRestore();
  });

  gpuTest("steps after the first make no buffers", async ({ device }) => {
    const cache = await lru.allocateGpuCache(4);
    const xt = x.slice(0, 4 * dModel);
    await lru.step(xt, cache);
    const createBuffer = vi.spyOn(device, "createBuffer");
    for (let i = 0; i < 3; i++) await lru.step(xt, cache);
    expect(createBuffer).not.toHaveBeenCalled();
    createBuffer.mockRestore();
    cache.dispose();
  });

  gpuTest(
    "a buffer of another device, or one that was destroyed: an error that says so",
    async ({ device }) => {
      const stranger = await watchedEngine();
      if ("reason" in stranger) throw new Error(stranger.reason);
      const destroyed = upload(device, x.slice(0, 4 * dModel));
      destroyed.destroy();
      const foreign = upload(stranger.device, x.slice(0, 4 * dModel));
      for (const buffer of [destroyed, foreign]) {
        const cache = await lru.allocateGpuCache(4);
        expectLinrecError(
          await errorOf(() => lru.step(buffer, cache)),
          "invalid-argument",
          /must be of engine.gpuDevice, and not destroyed/,
        );
        await expect(cache.read()).rejects.toThrow(/state was lost: x or out/);
        cache.dispose();
      }
      await stranger.engine.dispose();
    },
  );

  test("a GPU that is lost takes the state with it", async (context) => {
    const own = await watchedEngine();
    if ("reason" in own) return context.skip(own.reason);
    const layer = await own.engine.lru(params);
    const cache = await layer.allocateGpuCache(4);
    await layer.stepMany(x, cache);
    const pending = layer.stepMany(x, cache);
    own.device.destroy();
    await expect(pending).rejects.toMatchObject({ code: "gpu-failed" });
    await expect(layer.stepMany(x, cache)).rejects.toMatchObject({ code: "gpu-failed" });
    await expect(cache.read()).rejects.toMatchObject({ code: "gpu-failed" });
    await own.engine.dispose();
  });

  test("without a GPU there is no such cache", async () => {
    const layer = await cpu.lru(params);
    expectLinrecError(await errorOf(() => layer.allocateGpuCache(4)), "backend-unavailable", /webgpu/);
    expect(cpu.gpuDevice).toBeUndefined();
  });
});
