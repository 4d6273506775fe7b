/**
 * The golden cases and the exact ones (all tails, ragged rows, cuts) once more with guards around everything that the CPU
 * engine has in memory; and with resets, timesteps and `every`.
 */
import { readFileSync } from "node:fs";
import { afterEach, describe, expect, test, vi } from "vitest";
import { kinds, openNetwork, randomNetwork } from "../campaigns/calls/networks.mjs";
import { compile } from "../campaigns/mutants/compile.mjs";
import { createMemory } from "../src/cpu/instantiate.js";
import { createEngine, type Tensor } from "../src/index.js";
import { checkedCalls, damage, takeDamage } from "./support/checkedArena.js";
import { createPrivateEngine } from "./support/engines.js";
import { loadGolden } from "./support/golden.js";
import { floats, hardParams, random } from "./support/problems.js";
import "./golden.test.js";
import "./exact.test.js";

vi.mock("../src/cpu/arena.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedArena(await original()),
);
vi.mock("../src/cpu/packed.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedPacked(await original()),
);
vi.mock("../src/cpu/instantiate.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedKernels(await original()),
);

vi.mock("../src/cpu/backend.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedBackend(await original()),
);
vi.mock("../src/cpu/embedded.gen.js", async (original) =>
  (await import("./support/checkedArena.js")).checkedWorker(await original()),
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

  test.each(kinds)("networks at random write nowhere else: %s", async (kind) => {
    const engine = await createEngine({ backend: "wasm", threads: 0 });
    for (let seed = 1; seed <= 15; seed++) {
      const network = await openNetwork(engine, randomNetwork(random(seed), kind));
      const ids = "vocabulary" in network ? network.vocabulary : undefined;
      const count = 2 * 9000 * network.inputWidth; // more than a tile
      const x = ids ? Int32Array.from({ length: count }, (_, i) => i % ids) : floats(count, seed);
      await network.forward(x, { batch: 2, lengths: [9000, 77] });
      expect(damage(), `seed ${seed}`).toBeUndefined();
      network.dispose();
    }
    await engine.dispose();
  });

  test("a row of y behind a pool that is wider than all else of a span", async () => {
    const { checkpoint, spec } = await loadGolden("ml_cls_01_mean_prenorm");
    const width = (checkpoint.get("params.decoder.kernel") as Tensor).shape[0] as number;
    const classes = 5000;
    const engine = await createPrivateEngine("baseline", { threads: 2 });
    const tensors = new Map(checkpoint)
      .set("params.decoder.kernel", {
        ...{ dtype: "F32", shape: [width, classes], data: floats(width * classes, 1) },
      })
      .set("params.decoder.bias", { dtype: "F32", shape: [classes], data: floats(classes, 2) });
    const model = await engine.model(tensors, spec);
    const { y } = await model.forward(floats(2 * 3000 * model.inputWidth, 3), { batch: 2 });
    expect(y.length).toBe(2 * classes);
    expect(damage()).toBeUndefined();
    await engine.dispose();
  });

  // Bugs of kernels, each a row or a token too many: on the calling thread, and in workers with a memory of their own.
  test.each([
    ["copyRows", "let t = 0; t < tokens", "let t = 0; t <= tokens", 0],
    ["scanPair", "while (--tokens > 0)", "while (--tokens >= 0)", 0],
    ["scanPair", "while (--tokens > 0)", "while (--tokens >= 0)", 2],
    ["addCarry", "let t = 0; t < tokens", "let t = 0; t <= tokens", 2],
    ["carryScan", "; last < tokens;", "; last <= tokens;", 2],
    ["stepScan", "row < rows", "row <= rows", 0],
    ["timedScan", "dt < end", "dt <= end", 0],
  ])("a bug planted in %s is found: %s -> %s, %i threads", async (kernel, right, wrong, threads) => {
    const file = `assembly/${kernel}.ts`;
    const source = readFileSync(new URL(`../${file}`, import.meta.url), "utf8");
    expect(source).toContain(right);
    const wasm = await compile(file, source.replace(right, wrong));
    const engine = await createEngine({ backend: "wasm", threads, wasm });
    // Rows that need padding, and several spans where workers get them, the last chunk of which is full.
    const [batch, seqLen] = [2, threads > 0 ? 33600 : 480];
    const lru = await engine.lru(hardParams(3, 5, 1));
    const x = floats(batch * seqLen * 3, 2);
    const finding = async () => {
      const { state } = await lru.forward(x, { batch });
      lru.stepSync(x.subarray(0, 3 * batch), state);
      await lru.forward(x, { batch, integrationTimesteps: new Float32Array(batch * seqLen).fill(0.5) });
    };
    await finding().catch(() => {});
    expect(takeDamage()).toMatch(/: a write to \d+, not to \d+ x \d+ bytes from/);
    await engine.dispose();
  });

  test.each([
    ["after a region", 100],
    ["before it", -4],
  ] as const)("a store just %s is found", async (_, offset) => {
    const { Arena } = await import("../src/cpu/arena.js");
    const arena = new Arena(createMemory(false, 1));
    const start = arena.allocate(100);
    const at = (start + offset) / 4;
    const words = new Int32Array(arena.memory.buffer);
    const guard = words[at] as number;
    words[at] = 0;
    expect(damage()).toBe(`a region of 100 bytes was written to at ${offset}`);
    words[at] = guard;
    expect(damage()).toBeUndefined();
  });
});
