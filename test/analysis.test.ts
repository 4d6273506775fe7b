/** discretize, kernel, impulseResponse and inspect: against forward on impulses, and against lambda multiplied out by hand. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { createEngine, type Engine, initLru, writeSafetensors } from "../src/index.js";
import { goldenNames, loadGolden } from "./support/golden.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ backend: "wasm", threads: 0 });
});
afterAll(() => engine.dispose());

const at = (values: ArrayLike<number>, i: number) => values[i] as number;

test("one step by hand with what discretize gives is the layer's step", async () => {
  const [dModel, dState] = [3, 7];
  const params = hardParams(dModel, dState, 5);
  const lru = await engine.lru(params);
  const { lambda, BNorm, C } = lru.discretize();
  const [x, re, im] = [floats(dModel, 1), floats(dState, 2), floats(dState, 3)];
  const h = Array.from({ length: dState }, (_, n) => {
    let hr = at(lambda.re, n) * at(re, n) - at(lambda.im, n) * at(im, n);
    let hi = at(lambda.re, n) * at(im, n) + at(lambda.im, n) * at(re, n);
    for (let j = 0; j < dModel; j++) {
      hr += at(BNorm.re, n * dModel + j) * at(x, j);
      hi += at(BNorm.im, n * dModel + j) * at(x, j);
    }
    return [hr, hi] as const;
  });
  const cache = lru.allocateInferenceCache();
  cache.set(re, im);
  const y = lru.stepSync(x, cache);
  for (let o = 0; o < dModel; o++) {
    let sum = at(params.D, o) * at(x, o);
    for (const [n, [hr, hi]] of h.entries())
      sum += at(C.re, o * dState + n) * hr - at(C.im, o * dState + n) * hi;
    expect(at(y, o)).toBeCloseTo(sum, 5);
  }
  lru.dispose();
});

test("kernel: the powers of lambda, and BNorm", async () => {
  const lru = await engine.lru(initLru({ dModel: 2, dState: 5, seed: 3 }));
  const { K, BNorm } = lru.kernel(40);
  const { lambda, BNorm: same } = lru.discretize();
  expect(BNorm).toEqual(same);
  for (let n = 0; n < 5; n++) {
    let [re, im] = [1, 0];
    for (let t = 0; t < 40; t++) {
      expect(at(K.re, n * 40 + t)).toBeCloseTo(re, 13);
      expect(at(K.im, n * 40 + t)).toBeCloseTo(im, 13);
      [re, im] = [
        re * at(lambda.re, n) - im * at(lambda.im, n),
        re * at(lambda.im, n) + im * at(lambda.re, n),
      ];
    }
  }
  expect(lru.kernel(0).K.re.length).toBe(0);
  for (const length of [-1, 1.5, Number.NaN])
    expectLinrecError(await errorOf(() => lru.kernel(length)), "invalid-argument", /length/);
  expectLinrecError(await errorOf(() => lru.impulseResponse(-1)), "invalid-argument", /length/);
  for (const length of [2 ** 40, 2 ** 45]) {
    expectLinrecError(await errorOf(() => lru.kernel(length)), "out-of-memory", /for K /);
    expectLinrecError(await errorOf(() => lru.impulseResponse(length)), "out-of-memory", /for R /);
  }
  lru.dispose();
});

test.each(goldenNames.filter((name) => name.startsWith("lru_")))(
  "lambda and K as lrnnx has them: %s",
  async (name) => {
    const { checkpoint, tensors } = await loadGolden(name);
    const lru = await engine.lru(writeSafetensors(checkpoint));
    const [re, im] = ["re", "im"].map((part) => tensors.get(`lambda_${part}`)?.data) as [
      Float64Array,
      Float64Array,
    ];
    const { lambda } = lru.discretize();
    const { K } = lru.kernel(2);
    for (const [n, expected] of re.entries()) {
      expect(Math.hypot(at(lambda.re, n) - expected, at(lambda.im, n) - at(im, n))).toBeLessThan(1e-14);
      expect([at(K.re, 2 * n + 1), at(K.im, 2 * n + 1)]).toEqual([at(lambda.re, n), at(lambda.im, n)]);
    }
    lru.dispose();
  },
);

test("impulseResponse is what forward answers to impulses", async () => {
  const [dModel, length] = [5, 61];
  const lru = await engine.lru(hardParams(dModel, 9, 7));
  const response = lru.impulseResponse(length);
  for (let j = 0; j < dModel; j++) {
    const x = new Float32Array(length * dModel);
    x[j] = 1;
    const { y } = await lru.forward(x);
    for (let t = 0; t < length; t++) {
      for (let o = 0; o < dModel; o++)
        expect(at(y, t * dModel + o)).toBeCloseTo(at(response, (t * dModel + o) * dModel + j), 5);
    }
  }
  lru.dispose();
});

test("inspect: after a half-life half is left", async () => {
  const params = hardParams(2, 33, 11);
  const lru = await engine.lru(params);
  const { lambda, radius, angle, halfLife, maxRadius } = lru.inspect();
  for (let n = 0; n < 33; n++) {
    expect(at(radius, n)).toBeCloseTo(Math.hypot(at(lambda.re, n), at(lambda.im, n)), 14);
    expect(at(radius, n) * Math.cos(at(angle, n))).toBeCloseTo(at(lambda.re, n), 14);
    if (at(radius, n) > 0) expect(at(radius, n) ** at(halfLife, n)).toBeCloseTo(0.5, 8);
    else expect(at(halfLife, n)).toBeLessThan(1e-4);
  }
  expect(maxRadius).toBe(Math.max(...radius));
  lru.dispose();
});

test("inspect of a model: one entry for each LRU layer, by name", async () => {
  const { checkpoint, spec } = await loadGolden("ml_cls_07_6layers");
  const model = await engine.model(writeSafetensors(checkpoint), spec);
  const layers = model.inspect();
  const lrus = model.stages.filter(({ kind }) => kind === "lru");
  expect(layers.map(({ name }) => name)).toEqual(lrus.map(({ name }) => name));
  expect(layers.length).toBe(6);
  for (const { maxRadius } of layers) expect(maxRadius > 0 && maxRadius < 1).toBe(true);
  model.dispose();
});
