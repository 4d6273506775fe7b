// The golden cases once more, with the package as it is published: minified, its shaders too.
import { expect, test, vi } from "vitest";
import * as source from "../src/index.js";
import "./golden.test.js";
import { relativeError } from "./support/golden.js";
import { floats } from "./support/problems.js";

vi.mock("../src/index.js", () => import("../dist/index.js"));

test("what ran is the built package", async () => {
  expect(source.createEngine).toBe((await import("../dist/index.js")).createEngine);
});

// No golden case has them: their kernels are variants that nothing else compiles.
test("both directions on a GPU", async (context) => {
  const engine = await source.createEngine({ backend: ["webgpu", "wasm"], threads: 0 });
  const { available, reason } = engine.backends.webgpu;
  if (!available) return context.skip(reason);
  const [forward, backward] = [1, 2].map((seed) => source.initLru({ dModel: 5, dState: 7, seed })) as [
    source.LruParams,
    source.LruParams,
  ];
  const layer = await engine.bidirectional({ forward, backward });
  const x = floats(5 * 100, 3);
  const { y } = await layer.forward(x, { backend: "webgpu" });
  expect(relativeError(y, (await layer.forward(x, { backend: "wasm" })).y)).toBeLessThan(5e-6);
  await engine.dispose();
});
