/**
 * What an LRU's parameters mean, derived once in float64 (no kernel and no shader derives lambda or a power of it:
 * a float32 power is up to 700 times less accurate than these).
 */
import { cos, exp, sin } from "./elementary.js";
import type { LruParams, StageParams } from "./program.js";

/** Eigenvalues as rates: lambda^k = exp(-k nu) (cos k theta + i sin k theta), exact for every k without repeated products. */
export interface Eigenvalues {
  /** [dState] exp(nuLog) > 0 */
  readonly nu: Float64Array;
  /** [dState] radians */
  readonly theta: Float64Array;
  /** [dState] where each part of a state is a real one: the rates of the imaginary parts. */
  readonly nuIm: Float64Array | undefined;
}

/** nuLog, thetaLog or theta [dState] float32 -> nu, theta [dState] float64 */
export function eigenvalues(params: StageParams): Eigenvalues {
  const nu = Float64Array.from(params.nuLog, exp);
  const { theta: given, thetaLog } = params;
  // One of them is there: `checkLruParams` has seen to that.
  const theta = given ? Float64Array.from(given) : Float64Array.from(thetaLog as Float32Array, exp);
  return { nu, theta, nuIm: params.nuLogIm && Float64Array.from(params.nuLogIm, exp) };
}

/** log sqrt(1 - |lambda|^2), the gamma of a fresh layer: with expm1, for 1 - |lambda|^2 cancels near 1. */
export function gammaLogOf(nuLog: Float32Array): Float32Array {
  return nuLog.map((value) => 0.5 * Math.log(-Math.expm1(-2 * exp(value))));
}

/** Re lambda_n^k */
export function powerRe(eigen: Eigenvalues, n: number, k: number): number {
  // k = 0 apart: where |lambda| = 0 the rate nu is infinite, and 0 * Infinity is NaN.
  return k === 0 ? 1 : exp(-k * (eigen.nu[n] as number)) * cos(k * (eigen.theta[n] as number));
}

/** Im lambda_n^k; of two real states the other one's power, as is the real part of the one's. */
export function powerIm(eigen: Eigenvalues, n: number, k: number): number {
  if (eigen.nuIm) return k === 0 ? 1 : exp(-k * (eigen.nuIm[n] as number));
  return k === 0 ? 0 : exp(-k * (eigen.nu[n] as number)) * sin(k * (eigen.theta[n] as number));
}

/** BRe, BIm [dState, dModel] -> exp(gammaLog) * B, multiplied in float64 and rounded once to float32. */
export function normalizedB(params: LruParams): { re: Float32Array; im: Float32Array } {
  const dState = params.nuLog.length;
  const dModel = params.D.length;
  const { BRe, BIm } = params;
  const re = new Float32Array(dState * dModel);
  const im = new Float32Array(dState * dModel);
  for (let n = 0; n < dState; n++) {
    const gamma = exp(params.gammaLog[n] as number);
    const end = (n + 1) * dModel;
    for (let j = n * dModel; j < end; j++) {
      re[j] = gamma * (BRe[j] as number);
      im[j] = gamma * (BIm[j] as number);
    }
  }
  return { re, im };
}
