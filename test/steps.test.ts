/**
 * `rows` and `stepMany`: however streams are advanced, some of them, in any order, many steps at a time, each gives what it
 * gives alone, token by token: on the CPU bit for bit.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { AnyCache } from "../src/cache.js";
import { type BackendName, createEngine, type Engine, type Input, writeSafetensors } from "../src/index.js";
import { CHUNK } from "../src/state.js";
import { expectSameBits } from "./support/bits.js";
import { checkpointNames, loadCheckpoint } from "./support/checkpoints.js";
import { builds, createPrivateEngine } from "./support/engines.js";
import { relativeError } from "./support/golden.js";
import { floats, random } from "./support/problems.js";

interface Options {
  readonly rows?: Int32Array;
  readonly reset?: boolean[];
  readonly integrationTimesteps?: Float32Array;
}

/** A layer or a model, as far as both are the same. */
interface Layer {
  readonly inputWidth: number;
  readonly outputWidth: number;
  readonly vocabulary: number | undefined;
  forward(x: Input, options: object): Promise<{ readonly state: AnyCache }>;
  stepSync(xt: Input, cache: AnyCache, options?: Options): Float32Array;
  step(xt: Input, cache: AnyCache, options?: Options): Promise<Float32Array>;
  stepMany(x: Input, cache: AnyCache, options?: Options): Promise<Float32Array>;
  allocateInferenceCache(batch?: number): AnyCache;
  dispose(): void;
}

async function load(engine: Engine, name: string): Promise<Layer> {
  const { checkpoint, spec } = await loadCheckpoint(name);
  const bytes = writeSafetensors(checkpoint, { linrec: JSON.stringify(spec) });
  const layer = name.startsWith("lru_") ? await engine.lru(bytes) : await engine.model(bytes, spec);
  return layer as unknown as Layer;
}

const SLOTS = 7;

/** Steps of each call. */
const COUNTS = [1, 3, 1, CHUNK + 5, 2, 0, CHUNK - 1, 1];

/** What is asked of a cache, call by call. */
interface Call {
  readonly x: Input;
  readonly steps: number;
  readonly streams: number;
  readonly options: Options;
}

function callsOf({ inputWidth, vocabulary }: Layer, seed: number, timed: boolean, counts = COUNTS): Call[] {
  const next = random(seed);
  return counts.map((steps, i) => {
    const order = [...Array(SLOTS).keys()].sort(() => next() - 0.5);
    const rows = i % 3 === 1 ? undefined : Int32Array.from(order.slice(0, Math.floor(next() * (SLOTS + 1))));
    const streams = rows?.length ?? SLOTS;
    const size = steps * streams * inputWidth;
    const x =
      vocabulary === undefined
        ? floats(size, seed + i)
        : Int32Array.from({ length: size }, () => Math.floor(vocabulary * next()));
    const tokens = steps * streams;
    const options = {
      ...(rows && { rows }),
      ...(next() < 0.5 && { reset: Array.from({ length: tokens }, () => next() < 0.1) }),
      ...(timed &&
        next() < 0.5 && {
          integrationTimesteps: Float32Array.from({ length: tokens }, () => Math.floor(8 * next()) / 4),
        }),
    };
    return { x, steps, streams, options };
  });
}

/** What each call gives, where every stream has a cache of its own and reads token by token; and those caches. */
function alone(layer: Layer, calls: readonly Call[]): { ys: Float32Array[]; caches: AnyCache[] } {
  const caches = Array.from({ length: SLOTS }, () => layer.allocateInferenceCache());
  const ys = calls.map(({ x, steps, streams, options }) => {
    const y = new Float32Array(steps * streams * layer.outputWidth);
    for (let i = 0; i < steps * streams; i++) {
      const [reset, times] = [options.reset?.[i], options.integrationTimesteps?.subarray(i, i + 1)];
      const xt = x.subarray(i * layer.inputWidth, (i + 1) * layer.inputWidth);
      const row = options.rows ? (options.rows[i % streams] as number) : i % streams;
      const own = {
        ...(reset !== undefined && { reset: [reset] }),
        ...(times && { integrationTimesteps: times }),
      };
      y.set(layer.stepSync(xt, caches[row] as AnyCache, own), i * layer.outputWidth);
    }
    return y;
  });
  return { ys, caches };
}

/** The same calls on one cache of all the streams. */
async function together(
  layer: Layer,
  calls: readonly Call[],
): Promise<{ ys: Float32Array[]; cache: AnyCache }> {
  const cache = layer.allocateInferenceCache(SLOTS);
  const ys: Float32Array[] = [];
  for (const [i, { x, steps, options }] of calls.entries()) {
    if (steps !== 1) ys.push(await layer.stepMany(x, cache, options));
    else ys.push(i === 0 ? layer.stepSync(x, cache, options) : await layer.step(x, cache, options));
  }
  return { ys, cache };
}

const isNone = (value: number) => Number(Number.isNaN(value));
const isSome = (value: number) => !Number.isNaN(value);

/** A classifier may pool between its blocks. */
const isOneRate = (name: string) => !name.startsWith("cls");
const names = checkpointNames.filter((name) => !/unet/.test(name));

describe.each(builds)("%s SIMD", (build) => {
  const engines: Engine[] = [];
  beforeAll(async () => {
    for (const threads of [0, 2]) engines.push(await createEngine({ backend: "wasm", simd: build, threads }));
    engines.push(await createPrivateEngine(build, { threads: 2 }));
  });
  afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

  test.each(names)("%s: some streams, many steps = one by one, bit for bit", async (name) => {
    for (const engine of engines) {
      const layer = await load(engine, name);
      const calls = callsOf(layer, 3, isOneRate(name));
      const [expected, actual] = [alone(layer, calls), await together(layer, calls)];
      for (const [i, y] of actual.ys.entries())
        expectSameBits(y, expected.ys[i] as Float32Array, `y of call ${i}`);
      const layers = [actual.cache.get()].flat();
      for (const [row, cache] of expected.caches.entries()) {
        expect(actual.cache.tokens[row], `tokens of row ${row}`).toBe(cache.tokens[0]);
        for (const [i, { re, im }] of [cache.get()].flat().entries()) {
          const part = (values: Float32Array) => values.subarray(row * re.length, (row + 1) * re.length);
          expectSameBits(part(layers[i]?.re as Float32Array), re, `re of layer ${i}, row ${row}`);
          expectSameBits(part(layers[i]?.im as Float32Array), im, `im of layer ${i}, row ${row}`);
        }
      }
      layer.dispose();
    }
  });
});

test.each<[BackendName, number]>([
  ["reference", 1e-5],
  ["webgpu", 5e-5],
])("%s: the same within the accuracy of models", async (backend, most) => {
  const cpu = await createEngine({ backend: "wasm" });
  const engine = await createEngine({ backend: [backend, "reference"] });
  for (const name of names) {
    const [layer, other] = [await load(engine, name), await load(cpu, name)];
    const calls = callsOf(layer, 4, isOneRate(name), [1, 3, 0, 7, 1]);
    const { ys } = await together(layer, calls);
    for (const [i, y] of alone(other, calls).ys.entries()) {
      const actual = ys[i] as Float32Array;
      // A model that pools in windows has nothing to say before the first is full.
      expect(actual.map(isNone)).toEqual(y.map(isNone));
      const [some, wanted] = [actual.filter(isSome), y.filter(isSome)];
      if (wanted.length > 0) expect(relativeError(some, wanted), `${name}, call ${i}`).toBeLessThan(most);
    }
    layer.dispose();
  }
  await engine.dispose();
  await cpu.dispose();
});

test("a call that is refused, or fails, leaves the cache as it was", async () => {
  const engine = await createEngine({ backend: "wasm", nonFinite: "reject" });
  const layer = await load(engine, checkpointNames[0] as string);
  const cache = layer.allocateInferenceCache(3);
  await layer.stepMany(floats(4 * 3 * layer.inputWidth, 1), cache);
  const [before, tokens] = [[cache.get()].flat(), cache.tokens];
  const x = floats(2 * 2 * layer.inputWidth, 2);
  const rows = Int32Array.of(2, 0);
  await expect(layer.stepMany(x, cache, { rows: Int32Array.of(2, 2) })).rejects.toThrow(/once/);
  await expect(layer.stepMany(x.fill(Number.NaN, 3), cache, { rows })).rejects.toMatchObject({
    code: "non-finite",
  });
  const pending = layer.stepMany(floats(100 * 3 * layer.inputWidth, 3), cache);
  expect(() => layer.stepSync(floats(3 * layer.inputWidth, 4), cache)).toThrow(/Await it first/);
  layer.dispose();
  await expect(pending).rejects.toMatchObject({ code: "disposed" });
  expect(cache.tokens).toEqual(tokens);
  expect([cache.get()].flat()).toEqual(before);
  await engine.dispose();
});
