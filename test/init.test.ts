import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type InitLruOptions, initLru } from "../src/init.js";
import { lruProgram } from "../src/lruParams.js";
import { runReference } from "../src/reference.js";

const mean = (values: ArrayLike<number>) =>
  Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values: ArrayLike<number>) => {
  const center = mean(values);
  return Math.sqrt(mean(Array.from(values, (value) => (value - center) ** 2)));
};

describe("is reproducible", () => {
  test("the same options, the same bits; another seed, other numbers", () => {
    const options = { dModel: 4, dState: 6, seed: 7 };
    expect(initLru(options)).toEqual(initLru({ ...options }));
    const seeds = [0, 1, 2, 7, 2 ** 32, 2 ** 32 + 7, Number.MAX_SAFE_INTEGER];
    const first = seeds.map((seed) => initLru({ ...options, seed }).nuLog[0]);
    expect(new Set(first).size).toBe(seeds.length);
    expect(initLru({ dModel: 4, dState: 6 })).toEqual(initLru({ ...options, seed: 0 }));
  });

  test("from version to version", () => {
    const { nuLog, thetaLog, gammaLog, BRe, BIm, CRe, CIm, D } = initLru({ dModel: 1, dState: 2, seed: 7 });
    const flat = [nuLog, thetaLog ?? [], gammaLog, BRe, BIm, CRe, CIm, D].flatMap((values) => [...values]);
    const expected: number[] = [
      0.67555875, -1.4748001, 0.55278838, -0.068621002, -0.0099169686, -0.50088292, -0.29256302, 0.077517658,
      1.1803496, -1.3406339, 0.13742238, -0.26999155, -0.52212995, -0.34592968, 1.2095449,
    ];
    expect(flat.length).toBe(expected.length);
    for (const [i, value] of flat.entries()) expect(value).toBeCloseTo(expected[i] as number, 5);
  });

  test("arrays of the right sizes", () => {
    const lengths = Object.fromEntries(
      Object.entries(initLru({ dModel: 3, dState: 5 })).map(([name, values]) => [name, values.length]),
    );
    expect(lengths).toEqual({ nuLog: 5, thetaLog: 5, gammaLog: 5, BRe: 15, BIm: 15, CRe: 15, CIm: 15, D: 3 });
  });
});

describe("follows the paper", () => {
  const [rMin, rMax, maxPhase] = [0.4, 0.9, 1.5];
  const dState = 20_000;
  const ring = initLru({ dModel: 1, dState, rMin, rMax, maxPhase, seed: 11 });
  const radius = Array.from(ring.nuLog, (value) => Math.exp(-Math.exp(value)));
  const phase = Array.from(ring.thetaLog ?? [], Math.exp);

  test("|lambda| on the ring, |lambda|^2 uniform", () => {
    expect(Math.min(...radius)).toBeGreaterThanOrEqual(rMin - 1e-6);
    expect(Math.max(...radius)).toBeLessThanOrEqual(rMax + 1e-6);
    const width = rMax ** 2 - rMin ** 2;
    const area = radius.map((r) => (r * r - rMin ** 2) / width);
    expect(kolmogorovSmirnov(area)).toBeLessThan(1.95 / Math.sqrt(dState));
  });

  test("arg lambda uniform up to maxPhase, apart from |lambda|", () => {
    expect(kolmogorovSmirnov(phase.map((angle) => angle / maxPhase))).toBeLessThan(1.95 / Math.sqrt(dState));
    const [r0, p0] = [mean(radius), mean(phase)];
    const covariance = mean(radius.map((r, n) => (r - r0) * ((phase[n] as number) - p0)));
    expect(Math.abs(covariance / (deviation(radius) * deviation(phase)))).toBeLessThan(4 / Math.sqrt(dState));
  });

  test("B, C and D normal with the paper's deviations", () => {
    const { BRe, BIm, CRe, CIm, D } = initLru({ dModel: 150, dState: 200, seed: 12 });
    for (const [values, expected] of [
      [BRe, 1 / Math.sqrt(300)],
      [BIm, 1 / Math.sqrt(300)],
      [CRe, 1 / Math.sqrt(200)],
      [CIm, 1 / Math.sqrt(200)],
    ] as const) {
      const count = values.length;
      expect(Math.abs(mean(values))).toBeLessThan((4 * expected) / Math.sqrt(count));
      expect(Math.abs(deviation(values) / expected - 1)).toBeLessThan(4 / Math.sqrt(2 * count));
      // A normal's fourth moment: uniform or two-point values of that deviation would give 1.8 or 1.
      expect(Math.abs(mean(values.map((value) => (value / expected) ** 4)) - 3)).toBeLessThan(0.25);
    }
    const d = initLru({ dModel: 20_000, dState: 1, seed: 13 }).D;
    expect(Math.abs(deviation(d) - 1)).toBeLessThan(0.02);
    expect(D.length).toBe(150);
    expect(mean(BRe.map((value, i) => value * (BIm[i] as number))) * 300).toBeCloseTo(0, 1);
  });

  test("gamma = sqrt(1 - |lambda|^2) of the rounded nuLog, also where that cancels", () => {
    for (const [low, high] of [
      [0, 1],
      [0.9, 0.999],
      [1 - 1e-9, 1],
    ] as const) {
      const { nuLog, gammaLog } = initLru({ dModel: 1, dState: 500, rMin: low, rMax: high, seed: 14 });
      for (const [n, value] of nuLog.entries()) {
        const nu = Math.exp(value);
        // 1 - e^-2nu as it stands, or by its series where that would cancel.
        const square = nu > 1e-3 ? 1 - Math.exp(-2 * nu) : 2 * nu - 2 * nu ** 2 + (4 / 3) * nu ** 3;
        expect(gammaLog[n]).toBe(Math.fround(gammaLog[n] as number));
        expect(Math.abs((gammaLog[n] as number) - 0.5 * Math.log(square))).toBeLessThan(
          1e-6 * Math.max(1, Math.abs(gammaLog[n] as number)),
        );
      }
    }
  });

  test("keeps a white input's size: states of variance about 1", () => {
    // With B = 1 and u white of variance 1, E|h|^2 = gamma^2 / (1 - |lambda|^2) = 1.
    const params = initLru({ dModel: 1, dState: 50, rMin: 0.5, rMax: 0.9, seed: 15 });
    params.BRe.fill(1);
    params.BIm.fill(0);
    const x = Float32Array.from(initLru({ dModel: 20_000, dState: 1, seed: 16 }).D);
    const { nuLog } = params;
    const single = [...nuLog.keys()].map((n) => {
      const pick = (values: Float32Array | undefined) => Float32Array.of(values?.[n] as number);
      const one = lruProgram({
        nuLog: pick(nuLog),
        thetaLog: Float32Array.of(-30),
        gammaLog: pick(params.gammaLog),
        BRe: Float32Array.of(1),
        BIm: Float32Array.of(0),
        CRe: Float32Array.of(1),
        CIm: Float32Array.of(0),
        D: Float32Array.of(0),
      });
      return deviation(runReference(one, { x, batch: 1, seqLen: 20_000 }).y);
    });
    for (const value of single) expect(Math.abs(value - 1)).toBeLessThan(0.15);
  });
});

describe("every allowed argument", () => {
  test("gives finite parameters of a stable layer", () => {
    const radius = fc.oneof(
      fc.constantFrom(0, 1, Number.MIN_VALUE, 1e-200, 1e-8, 0.5, 1 - 2 ** -53, 1 - 2 ** -30),
      fc.double({ min: 0, max: 1, noNaN: true }),
    );
    const maxPhase = fc.oneof(
      fc.constantFrom(Number.MIN_VALUE, 1e-300, 6.28, 1e6),
      fc.double({ min: 1e-9, max: 7, noNaN: true }),
    );
    const options = fc
      .record({
        dModel: fc.integer({ min: 1, max: 4 }),
        dState: fc.integer({ min: 1, max: 9 }),
        a: radius,
        b: radius,
        maxPhase,
        seed: fc.maxSafeNat(),
      })
      .map(({ a, b, ...rest }) => ({ ...rest, rMin: Math.min(a, b), rMax: Math.max(a, b) }))
      .filter(({ rMin }) => rMin < 1);
    fc.assert(
      // lruProgram checks that every value is finite and every |lambda| < 1.
      fc.property(options, (given) => void lruProgram(initLru(given))),
      { numRuns: 1000 },
    );
  });

  const cases: [string, Record<string, unknown>, RegExp][] = [
    ["no dModel", { dModel: undefined }, /dModel.*undefined/],
    ["dState 0", { dState: 0 }, /dState.*at least 1; got 0/],
    ["dModel 1.5", { dModel: 1.5 }, /dModel.*1\.5/],
    ["sizes beyond memory", { dModel: 2 ** 20, dState: 2 ** 20 }, /2\^30/],
    ["rMin < 0", { rMin: -0.1 }, /0 <= rMin/],
    ["rMax > 1", { rMax: 1.01 }, /rMax <= 1/],
    ["rMin > rMax", { rMin: 0.9, rMax: 0.8 }, /rMin 0\.9, rMax 0\.8/],
    ["rMin = rMax = 1", { rMin: 1, rMax: 1 }, /rMin < 1/],
    ["rMin NaN", { rMin: Number.NaN }, /rMin NaN/],
    ["rMin as text", { rMin: "0.5" }, /number for rMin/],
    ["maxPhase 0", { maxPhase: 0 }, /maxPhase/],
    ["maxPhase infinite", { maxPhase: Infinity }, /maxPhase/],
    ["a seed below 0", { seed: -1 }, /seed.*-1/],
    ["half a seed", { seed: 0.5 }, /seed/],
    ["an unknown option", { rmin: 0.5 }, /no option "rmin".*dModel, dState, rMin/],
  ];
  test.each(cases)("and not: %s", (_, change, message) => {
    const options = { dModel: 2, dState: 2, ...change } as InitLruOptions;
    const expected = expect.objectContaining({
      code: "invalid-argument",
      message: expect.stringMatching(message),
    });
    expect(() => initLru(options)).toThrow(expected);
  });

  test("nothing at all", () => {
    expect(() => initLru(undefined as unknown as InitLruOptions)).toThrow(
      /initLru's options must be an object; got undefined/,
    );
  });
});

/** The largest distance between the samples' distribution and the uniform one on [0, 1]; 1.95 / sqrt(n) is passed once in 1000. */
function kolmogorovSmirnov(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return Math.max(
    ...sorted.map((value, i) => Math.max((i + 1) / sorted.length - value, value - i / sorted.length)),
  );
}
