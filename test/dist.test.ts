// The golden cases once more, with the package as it is published: minified, its shaders too.
import { expect, test, vi } from "vitest";
import * as source from "../src/index.js";
import { buildProgram } from "../src/models/build.js";
import type { Program } from "../src/program.js";
import { liftingOf } from "../src/webgpu/chooseLift.js";
import { T } from "../src/webgpu/tiles.js";
import "./golden.test.js";
import { relativeError } from "./support/golden.js";
import { randomClassifier } from "./support/lrnnx.js";
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

// Only a long row is lifted, and only there an epilogue reads u anew: by the name that it has in the shader.
test("a skip behind a lifted layer on a GPU", async (context) => {
  const engine = await source.createEngine({ backend: ["webgpu", "wasm"], threads: 0 });
  const { available, reason } = engine.backends.webgpu;
  if (!available) return context.skip(reason);
  const { checkpoint, spec: own } = randomClassifier(8, { features: 1 });
  const spec = { ...own, intermediatePooling: "none", pooling: "mean" } as const;
  const { lift, leastChunks } = liftingOf(buildProgram(checkpoint, {}, spec) as Program);
  expect(lift).toBeGreaterThan(1);
  const model = await engine.model(checkpoint, spec);
  const x = floats(lift * leastChunks * T, 4);
  const { y } = await model.forward(x, { backend: "webgpu" });
  expect(relativeError(y, (await model.forward(x, { backend: "wasm" })).y)).toBeLessThan(5e-5);
  await engine.dispose();
});
