/** Calls that advance some streams of many, and what each stream gives alone, token by token: what those must give. */
import { type Engine, type Input, writeSafetensors } from "../../src/index.js";
import type { AnyCache } from "../../src/layers/cache.js";
import { CHUNK } from "../../src/state.js";
import { checkpointNames, loadCheckpoint } from "./checkpoints.js";
import { floats, random } from "./problems.js";

export interface Options {
  readonly rows?: Int32Array;
  readonly reset?: boolean[];
  readonly integrationTimesteps?: Float32Array;
}

/** A layer or a model, as far as both are the same. */
export interface Layer {
  readonly inputWidth: number;
  readonly outputWidth: number;
  readonly vocabulary: number | undefined;
  forward(x: Input, options: object): Promise<{ readonly state: AnyCache }>;
  stepSync(xt: Input, cache: AnyCache, options?: Options): Float32Array;
  step(xt: Input, cache: AnyCache, options?: Options): Promise<Float32Array>;
  stepMany(x: Input, cache: AnyCache, options?: Options): Promise<Float32Array>;
  allocateInferenceCache(batch?: number): AnyCache;
  serializeState(state: AnyCache): Uint8Array;
  deserializeState(bytes: Uint8Array): AnyCache;
  dispose(): void;
}

export async function loadLayer(engine: Engine, name: string): Promise<Layer> {
  const { checkpoint, spec } = await loadCheckpoint(name);
  const bytes = writeSafetensors(checkpoint, { linrec: JSON.stringify(spec) });
  const layer = name.startsWith("lru_") ? await engine.lru(bytes) : await engine.model(bytes, spec);
  return layer as unknown as Layer;
}

export const SLOTS = 7;

/** Steps of each call. */
const COUNTS = [1, 3, 1, CHUNK + 5, 2, 0, CHUNK - 1, 1];

/** What is asked of a cache, call by call. */
export interface Call {
  readonly x: Input;
  readonly steps: number;
  readonly streams: number;
  readonly options: Options;
}

export function callsOf(
  { inputWidth, vocabulary }: Layer,
  seed: number,
  timed: boolean,
  counts = COUNTS,
): Call[] {
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
export function alone(layer: Layer, calls: readonly Call[]): { ys: Float32Array[]; caches: AnyCache[] } {
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

/** A classifier may pool between its blocks. */
export const isOneRate = (name: string) => !name.startsWith("cls");

/** Those that can be stepped. */
export const names = checkpointNames.filter((name) => !/unet/.test(name));
