/** Layers and inputs that are built to hurt, from a few numbers that a failing test can print. */
import fc from "fast-check";
import { floats, random } from "../../campaigns/random.mjs";
import type { LruParams } from "../../src/program.js";
import { CHUNK } from "../../src/state.js";

export { floats, random };

export interface Sizes {
  readonly dModel: number;
  readonly dState: number;
  readonly batch: number;
  readonly seqLen: number;
  /** Of the weights and of x. */
  readonly seed: number;
  /** x is of about this size. */
  readonly magnitude: number;
}

/** Around one chunk and two, and primes. */
const edges = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1];
const lengths = [0, 1, 2, 3, 5, ...edges, 37, 97, 127, 151, 211, 293];
const widths = [1, 2, 3, 4, 5, 7, 8, 9, 17, 33];

export const sizes: fc.Arbitrary<Sizes> = fc.record({
  dModel: fc.constantFrom(...widths),
  dState: fc.constantFrom(...widths),
  batch: fc.integer({ min: 1, max: 5 }),
  seqLen: fc.constantFrom(...lengths),
  seed: fc.integer({ min: 0, max: 0xffff }),
  magnitude: fc.constantFrom(1, 1, 1, 1e-38, 1e30),
});

/** |lambda| = 0: exp(-exp(nuLog)) is no float32, nor a float64. */
const NU_LOG_OF_ZERO = 10;

/** |lambda| from {0, 0.5, 1 - 2^-k}, phases 0 and pi among others, weights of about the usual size. */
export function hardParams(dModel: number, dState: number, seed: number): LruParams {
  const next = random(seed);
  const pick = <T>(choices: readonly T[]) => choices[Math.floor(next() * choices.length)] as T;
  const nuLog = new Float32Array(dState);
  const theta = new Float32Array(dState);
  const gammaLog = new Float32Array(dState);
  for (let n = 0; n < dState; n++) {
    const k = 1 + Math.floor(20 * next());
    const radius = pick([0, 0.5, 1 - 2 ** -k, 1 - 2 ** -k, 1 - 2 ** -k]);
    nuLog[n] = radius === 0 ? NU_LOG_OF_ZERO : Math.log(-Math.log(radius));
    gammaLog[n] = 0.5 * Math.log(1 - radius ** 2);
    theta[n] = pick([0, Math.PI, -Math.PI / 2, 2 * Math.PI * next(), 1e-3 * next()]);
  }
  const weights = (length: number, fanIn: number) =>
    floats(length, Math.floor(2 ** 31 * next()), 1.5 / Math.sqrt(fanIn));
  return {
    nuLog,
    theta,
    gammaLog,
    BRe: weights(dState * dModel, dModel),
    BIm: weights(dState * dModel, dModel),
    CRe: weights(dModel * dState, dState),
    CIm: weights(dModel * dState, dState),
    D: weights(dModel, 1),
  };
}

/** Parameters, and x [batch, seqLen, dModel]. */
export function problem({ dModel, dState, batch, seqLen, seed, magnitude }: Sizes): {
  params: LruParams;
  x: Float32Array;
} {
  const x = floats(batch * seqLen * dModel, seed + 1, magnitude);
  return { params: hardParams(dModel, dState, seed), x };
}

/** integrationTimesteps: all different, a few values, runs of one value, and zeros. */
export function timestepsOf(length: number, seed: number): Float32Array {
  const next = random(seed);
  const kind = seed % 4;
  let run = 1;
  return Float32Array.from({ length }, (_, i) => {
    if (kind === 0) return 4 * next() ** 3;
    if (kind === 1) return [0, 0.5, 1, 3][Math.floor(4 * next())] as number;
    if (kind === 2 && i % 7 === 0) run = 2 * next();
    return run;
  });
}
