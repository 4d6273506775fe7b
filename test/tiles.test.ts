/**
 * A thread projects some of a tile without its carry, as much as there is time for until that is there, and the rest with it. Which
 * tokens those are is the threads' luck: here they are all there are to choose, and the bits are those of a thread that has its
 * carries at once.
 */
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { Tile } from "../src/cpu/tile.js";
import { FINISHED, TileRunner } from "../src/cpu/tiles.js";
import { createEngine, type Lru, writeSafetensors } from "../src/index.js";
import { expectSameBits, expectSameState } from "./support/bits.js";
import { type Build, builds } from "./support/engines.js";
import { randomClassifier } from "./support/lrnnx.js";
import { floats, hardParams, random, timestepsOf } from "./support/problems.js";

/** A layer or a model, as far as both are the same. */
type Layer = Pick<Lru, "inputWidth" | "forward" | "serializeState">;

/** Several tiles of each layer here. */
const seqLen = 20_000;
const batch = 3;
const lengths = [seqLen, 31, 13_003];

const layers: Record<string, (build: Build) => Promise<Layer>> = {
  "complex states": (build) => lruOf(build, (n) => n + 0.5),
  "real states": (build) => lruOf(build, () => 0),
  "complex states and real ones": (build) => lruOf(build, (n) => (n < 16 ? 0 : n)),
  "several layers and a maximum": (build) => modelOf(build, 6),
  "several layers and a mean": (build) => modelOf(build, 7),
};

/** A state whose theta is 0 is a real one. */
async function lruOf(build: Build, thetaOf: (n: number) => number): Promise<Layer> {
  const engine = await createEngine({ backend: "wasm", simd: build, threads: 0 });
  const [dModel, dState] = [5, 24];
  const params = hardParams(dModel, dState, 1);
  const theta = Float32Array.from({ length: dState }, (_, n) => thetaOf(n));
  const BIm = params.BIm.map((b, i) => (theta[Math.floor(i / dModel)] === 0 ? 0 : b));
  return engine.lru({ ...params, theta, BIm });
}

async function modelOf(build: Build, seed: number): Promise<Layer> {
  const engine = await createEngine({ backend: "wasm", simd: build, threads: 0 });
  const { checkpoint, spec } = randomClassifier(seed);
  const model = await engine.model(writeSafetensors(checkpoint), { ...spec, intermediatePooling: "none" });
  return model as unknown as Layer;
}

const next = random(1);
/** Rows without resets, with some (before the first token too), with timesteps. */
const options = {
  "no options": {},
  resets: {
    reset: Uint8Array.from({ length: batch * seqLen }, (_, i) => (i === 0 || next() < 2e-4 ? 1 : 0)),
  },
  timesteps: { integrationTimesteps: timestepsOf(batch * seqLen, 8) },
};

/** Every tile of a calling thread, as if the carry of each stage came when it has projected so many parts. */
function projectFirst(parts: () => number): { partly: number } {
  const seen = { partly: 0 };
  const { run } = TileRunner.prototype;
  vi.spyOn(TileRunner.prototype, "run").mockImplementation(function (this: TileRunner, tile: Tile, whole) {
    if (whole) return run.call(this, tile, whole); // the engine measures the machine
    this.begin(tile);
    for (let at = this.local(0); at !== FINISHED; at = this.local(this.apply(at))) {
      const wanted = parts();
      let more = true;
      for (let part = 0; part < wanted && more; part++) more = this.project(at);
      if (wanted > 0 && more) seen.partly++;
      this.commit(at);
    }
  });
  return seen;
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe.each(builds)("%s SIMD", (build) => {
  describe.each(Object.keys(layers))("%s", (name) => {
    let layer: Layer;
    beforeAll(async () => {
      layer = await (layers[name] as (build: Build) => Promise<Layer>)(build);
    });

    test.each(Object.entries(options))("%s", async (_, given) => {
      const x = floats(batch * seqLen * layer.inputWidth, 3);
      const read = async () => {
        // The state to start from is inside a chunk.
        const { state } = await layer.forward(x.subarray(0, batch * 5 * layer.inputWidth), { batch });
        // A bare layer would run its rows in one call of a kernel each.
        return layer.forward(x, {
          batch,
          lengths,
          state,
          ...(name.includes("layers") ? {} : { every: 2 }),
          ...given,
        });
      };
      const expected = await read();
      const choose = random(2);
      let inPart = 0;
      for (const parts of [() => 1, () => 3, () => 100, () => Math.floor(10 * choose())]) {
        const seen = projectFirst(parts);
        const { y, state } = await read();
        vi.restoreAllMocks();
        inPart += seen.partly;
        expectSameBits(y, expected.y, "y");
        expectSameState([layer, state], [layer, expected.state], "state");
      }
      const atOnce = name === "real states" || "integrationTimesteps" in given;
      expect(inPart > 0, "a stage was projected in part").toBe(!atOnce);
    });
  });
});
