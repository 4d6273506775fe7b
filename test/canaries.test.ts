/**
 * The golden cases and the exact ones (all tails, ragged rows, cuts) once more with guards around everything that the CPU
 * engine has in memory; and with resets, timesteps and `every`.
 */
import { afterEach, describe, expect, test, vi } from "vitest";
import { createEngine } from "../src/index.js";
import {
  checkedArena,
  checkedCalls,
  checkedKernels,
  checkedPacked,
  damage,
  plant,
} from "./support/checkedArena.js";
import { floats, hardParams } from "./support/problems.js";
import "./golden.test.js";
import "./exact.test.js";
import "./stages.test.js";

vi.mock("../src/cpu/arena.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedArena(await original()),
);
vi.mock("../src/cpu/packed.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedPacked(await original()),
);
vi.mock("../src/cpu/instantiate.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedKernels(await original()),
);

afterEach(() => {
  expect(damage()).toBeUndefined();
});

describe("guards", () => {
  test.each([0, 2])(
    "resets, timesteps and every of ragged rows on %i threads write nowhere else",
    async (threads) => {
      const before = checkedCalls;
      const engine = await createEngine({ backend: "wasm", threads });
      for (const [dModel, dState, seqLen] of [
        [1, 1, 7],
        [3, 5, 97],
        [9, 7, 251],
      ] as const) {
        const lru = await engine.lru(hardParams(dModel, dState, 1));
        const x = floats(3 * seqLen * dModel, 2);
        const lengths = [seqLen, 1, seqLen >> 1];
        const reset = Uint8Array.from({ length: 3 * seqLen }, (_, i) => Number(i % 11 === 4));
        const integrationTimesteps = floats(3 * seqLen, 3).map(Math.abs);
        await lru.forward(x, { batch: 3, lengths, reset, every: 3 });
        await lru.forward(x, { batch: 3, lengths, integrationTimesteps });
        const { state } = await lru.forward(x, { batch: 3, reset, integrationTimesteps });
        lru.stepSync(x.subarray(0, 3 * dModel), state);
        expect(damage()).toBeUndefined();
      }
      expect(checkedCalls).toBeGreaterThan(before);
      await engine.dispose();
    },
  );

  /** Each is told of one thing more than there is, as an off-by-one would. */
  test.each([
    ["output", "a token", (args: number[]) => args.with(7, (args[7] as number) + 1)],
    ["copyRows", "a row", (args: number[]) => args.with(5, (args[5] as number) + 1)],
    ["projectHidden", "a group of states", (args: number[]) => args.with(-1, (args.at(-1) as number) + 1)],
    ["copyRows", "a float32 of a row", (args: number[]) => args.with(4, (args[4] as number) + 4)],
  ] as const)("a store past the end is found: %s writes %s more", async (kernel, _, change) => {
    const engine = await createEngine({ backend: "wasm", threads: 0 });
    const lru = await engine.lru(hardParams(8, 8, 1));
    Object.assign(plant, { kernel, change });
    try {
      const run = lru.forward(floats(48 * 8, 1), { every: kernel === "copyRows" ? 48 : 1 });
      await expect(run).rejects.toThrow(/was written to at/);
    } finally {
      delete plant.kernel;
    }
    await engine.dispose().catch(() => {});
  });
});
