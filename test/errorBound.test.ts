/** `lru.errorBound(x)` holds on every backend, value by value, and is of use. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type BackendName, createEngine, type Engine } from "../src/index.js";
import { needBackend } from "./support/engines.js";
import { floats, problem, sizes } from "./support/problems.js";

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ backend: ["wasm", "webgpu", "reference"] });
});
afterAll(() => engine.dispose());

/** The largest share of the bound that an error takes. */
async function worstShare(backend: BackendName, given: Parameters<typeof problem>[0]): Promise<number> {
  const { params, x } = problem(given);
  const { batch, dState } = given;
  const lru = await engine.lru(params);
  const start = lru.allocateInferenceCache(batch);
  start.set(floats(batch * dState, 1, given.magnitude), floats(batch * dState, 2, given.magnitude));
  const { state } = await lru.forward(x, { state: start, backend });
  const bound = lru.errorBound(x, { state });
  const { y } = await lru.forward(x, { state, backend });
  const { y: expected } = await lru.forward(x, { state, backend: "reference" });
  lru.dispose();
  // y of the reference is rounded to float32 too.
  return y.reduce((worst, value, i) => {
    const truth = expected[i] as number;
    const error = Math.abs(value - truth) - Math.abs(truth) * 2 ** -24 - 2 ** -150;
    return Math.max(worst, error / (bound[i] as number));
  }, 0);
}

describe.each(["wasm", "webgpu"] as const)("%s", (backend) => {
  test("no error is larger than its bound", async (context) => {
    needBackend(context, engine, backend);
    const numRuns = backend === "wasm" ? 60 : 8;
    const check = async (given: Parameters<typeof problem>[0]) => {
      // A GPU may take the smallest numbers for 0.
      const magnitude = backend === "webgpu" ? Math.max(given.magnitude, 1) : given.magnitude;
      expect(await worstShare(backend, { ...given, magnitude })).toBeLessThanOrEqual(1);
    };
    await fc.assert(fc.asyncProperty(sizes, check), { numRuns });
  });
});

test("the bound is small beside y, and grows with x", async () => {
  const { params, x } = problem({ dModel: 8, dState: 9, batch: 2, seqLen: 500, seed: 3, magnitude: 1 });
  const lru = await engine.lru(params);
  const { y } = await lru.forward(x, { batch: 2 });
  const largest = (values: Iterable<number>) => [...values].reduce((max, v) => Math.max(max, Math.abs(v)), 0);
  const bound = largest(lru.errorBound(x, { batch: 2 }));
  expect(bound).toBeGreaterThan(largest(y) * 2 ** -24);
  expect(bound).toBeLessThan(largest(y) * 1e-2);
  const doubled = largest(
    lru.errorBound(
      x.map((v) => 2 * v),
      { batch: 2 },
    ),
  );
  expect(doubled / bound).toBeCloseTo(2, 6);
});

test("wrong arguments are refused", async () => {
  const lru = await engine.lru(
    problem({ dModel: 3, dState: 2, batch: 1, seqLen: 1, seed: 1, magnitude: 1 }).params,
  );
  expect(() => lru.errorBound(new Float32Array(7))).toThrow(/7 values.*multiple of 3/);
  expect(() => lru.errorBound(new Float64Array(6) as never)).toThrow(/Float32Array/);
});
