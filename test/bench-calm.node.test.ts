// What bench/ times in calm moments: which those are, and of a long shape pieces that are the whole.
import { afterAll, beforeAll, expect, test } from "vitest";
import { isCalm } from "../bench/calm.mjs";
import { cut, walk } from "../bench/pieces.mjs";
import { flopsOf, shapes } from "../bench/shapes.mjs";
import { createEngine, type Engine, initLru } from "../src/index.js";
import { expectSameBits } from "./support/bits.js";

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ backend: "wasm", threads: 0 });
});
afterAll(() => engine.dispose());

test("a stretch is calm if its probes are fast and no thread waited for a core", () => {
  const best = 20;
  expect(isCalm({ probe: 22.9, waited: 0.019 }, best)).toBe(true);
  expect(isCalm({ probe: 23.1, waited: 0 }, best)).toBe(false);
  expect(isCalm({ probe: 20, waited: 0.021 }, best)).toBe(false);
});

test.for(shapes)(
  "$name: even parts of its rows, none above the flops that were wanted, and few below",
  (shape) => {
    const { tokens, count } = cut(shape, 3e8);
    const flops = flopsOf({ ...shape, batch: 1, seqLen: tokens });
    expect(shape.seqLen % tokens).toBe(0);
    expect(count * flops).toBe(flopsOf(shape));
    expect(flops).toBeLessThanOrEqual(3e8);
    if (count > 1) expect(flops).toBeGreaterThan(2e8);
  },
);

test("each round of the pieces is one forward of all rows, to the bit", async () => {
  const shape = { batch: 3, seqLen: 150, dModel: 5, dState: 7 };
  const layer = await engine.lru(initLru({ dModel: 5, dState: 7, seed: 1 }));
  const x = Float32Array.from({ length: 3 * 150 * 5 }, (_, i) => Math.sin(i));
  const { y } = await layer.forward(x, { batch: 3 });
  const out = new Float32Array(y.length);
  const run = walk((part: Float32Array, options: object) => layer.forward(part, options), x, out, shape, 50);
  for (const round of ["first", "second"]) {
    out.fill(Number.NaN);
    for (let i = 0; i < 9; i++) await run();
    expectSameBits(out, y, `the ${round} round`);
  }
});
