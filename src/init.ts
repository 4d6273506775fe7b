/** Random parameters for a new layer. */
import { allocating, LinrecError } from "./errors.js";
import { gammaLogOf } from "./params.js";
import type { LruParams } from "./program.js";
import { checkCount, checkOptions, show } from "./validate.js";

export interface InitLruOptions {
  /** features of a token, H */
  readonly dModel: number;
  /** complex states, N */
  readonly dState: number;
  /** |lambda| is drawn from [rMin, rMax]: 0 <= rMin <= rMax <= 1, rMin < 1. Default 0. */
  readonly rMin?: number | undefined;
  /** Default 1. */
  readonly rMax?: number | undefined;
  /** arg lambda is drawn from (0, maxPhase) radians. Default 2 pi. */
  readonly maxPhase?: number | undefined;
  /** A non-negative integer: the same seed gives the same parameters. Default 0. */
  readonly seed?: number | undefined;
}

const optionNames = ["dModel", "dState", "rMin", "rMax", "maxPhase", "seed"];

/**
 * -log|lambda| stays in this range: below, |lambda| rounds to 1 in float64; above, it rounds to 0 and nuLog, its
 * logarithm's logarithm, would be infinite for a radius of 0.
 */
const MIN_RATE = 2 ** -52;
const MAX_RATE = 700;
/** Beyond 2 pi a phase only wraps; beyond this, float32 logarithms of it would no longer say where to. */
const MAX_PHASE = 1e6;

/**
 * Ring initialisation of the LRU paper (arXiv 2303.06349, lemma 3.2 and section 3.4): lambda uniform by area on a ring
 * of the unit disc, B and C Glorot normal, gamma = sqrt(1 - |lambda|^2), D standard normal. All values are finite and
 * every |lambda| < 1.
 *
 * Throws `invalid-argument` for an option that is unknown, missing or out of range, and `out-of-memory`.
 */
export function initLru(options: InitLruOptions): LruParams {
  const { dModel, dState, rMin, rMax, maxPhase, seed } = readOptions(options);
  const uniform = uniforms(seed);
  const normal = normals(uniform);

  // u (rMax^2 - rMin^2) + rMin^2 is |lambda|^2, uniform by area.
  const nuLog = fill(dState, () => {
    const rate = -0.5 * Math.log(uniform() * (rMax ** 2 - rMin ** 2) + rMin ** 2);
    return Math.log(Math.min(Math.max(rate, MIN_RATE), MAX_RATE));
  });
  const thetaLog = fill(dState, () => Math.log(maxPhase) + Math.log(uniform()));
  const BRe = fill(dState * dModel, () => normal() / Math.sqrt(2 * dModel));
  const BIm = fill(dState * dModel, () => normal() / Math.sqrt(2 * dModel));
  const CRe = fill(dModel * dState, () => normal() / Math.sqrt(dState));
  const CIm = fill(dModel * dState, () => normal() / Math.sqrt(dState));
  const D = fill(dModel, normal);
  // From the rounded nuLog, so that it fits the lambda that is used.
  return { nuLog, thetaLog, gammaLog: gammaLogOf(nuLog), BRe, BIm, CRe, CIm, D };
}

function readOptions(options: InitLruOptions): { [Name in keyof InitLruOptions]-?: number } {
  checkOptions("initLru's options", options, optionNames);
  const { dModel, dState, rMin = 0, rMax = 1, maxPhase = 2 * Math.PI, seed = 0 } = options;
  checkCount("dModel", dModel, 1);
  checkCount("dState", dState, 1);
  checkCount("seed", seed, 0);
  if (dModel * dState > 2 ** 30)
    throw invalid(`needs dModel x dState of at most 2^30; got ${dModel} x ${dState}`);
  for (const [name, value] of Object.entries({ rMin, rMax, maxPhase })) {
    if (typeof value !== "number") throw invalid(`needs a number for ${name}; got ${show(value)}`);
  }
  if (!(rMin >= 0 && rMin <= rMax && rMax <= 1 && rMin < 1)) {
    throw invalid(`needs 0 <= rMin <= rMax <= 1 and rMin < 1; got rMin ${rMin}, rMax ${rMax}`);
  }
  if (!(maxPhase > 0 && maxPhase <= MAX_PHASE)) {
    throw invalid(`needs 0 < maxPhase <= ${MAX_PHASE} radians (its logarithm is stored); got ${maxPhase}`);
  }
  return { dModel, dState, rMin, rMax, maxPhase, seed };
}

function invalid(fault: string): LinrecError {
  return new LinrecError("invalid-argument", `initLru ${fault}.`);
}

function fill(length: number, next: () => number): Float32Array {
  const values = allocating("the parameters", () => new Float32Array(length));
  for (let i = 0; i < length; i++) values[i] = next();
  return values;
}

/** Uniforms of the open interval (0, 1) from sfc32 (Doty-Humphrey's PractRand), seeded with the seed's 53 bits. */
export function uniforms(seed: number): () => number {
  let [a, b, c, counter] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 0x9e3779b9, 1];
  const next = () => {
    const result = (a + b + counter) >>> 0;
    counter = (counter + 1) >>> 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) >>> 0;
    c = (((c << 21) | (c >>> 11)) + result) >>> 0;
    return result;
  };
  // Nearby seeds start alike; the generator's author mixes 12 rounds or more before the first number.
  for (let i = 0; i < 20; i++) next();
  return () => (next() + 0.5) / 2 ** 32;
}

/** Standard normals, by Marsaglia's polar method: two from each point of the unit disc. Without sin and cos, which differ between engines. */
function normals(uniform: () => number): () => number {
  let spare: number | undefined;
  return () => {
    if (spare !== undefined) {
      const value = spare;
      spare = undefined;
      return value;
    }
    let [x, y, square] = [0, 0, 1];
    while (square >= 1) {
      x = 2 * uniform() - 1;
      y = 2 * uniform() - 1;
      square = x * x + y * y;
    }
    const scale = Math.sqrt((-2 * Math.log(square)) / square);
    spare = y * scale;
    return x * scale;
  };
}
