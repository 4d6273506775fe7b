/** What a layer's parameters amount to, in float64: the discrete system, its kernels, and how long it remembers. */
import { exp } from "../elementary.js";
import { eigenvalues, powerIm, powerRe } from "../params.js";
import type { LruParams, LruStage } from "../program.js";

/** A complex array in two parts, row-major float64. */
export interface Complex {
  readonly re: Float64Array;
  readonly im: Float64Array;
}

/** The system h[t] = lambda h[t-1] + BNorm x[t], y[t] = Re(C h[t]) + D x[t]. */
export interface Discretized {
  /** [dState] */
  readonly lambda: Complex;
  /** [dState, dModel] exp(gammaLog) (BRe + i BIm) */
  readonly BNorm: Complex;
  /** [dModel, dState] */
  readonly C: Complex;
}

/** What one LRU layer remembers, state by state. */
export interface Memory {
  /** Where the layer comes from in the checkpoint. */
  readonly name: string;
  /** [dState] */
  readonly lambda: Complex;
  /** [dState] |lambda| < 1 */
  readonly radius: Float64Array;
  /** [dState] radians a token, as the checkpoint has them: not reduced to a turn */
  readonly angle: Float64Array;
  /** [dState] tokens after which half of a state is left: ln(1/2) / ln|lambda| */
  readonly halfLife: Float64Array;
  /** The largest |lambda|. */
  readonly maxRadius: number;
}

export function discretize(params: LruParams): Discretized {
  const { nuLog, D, gammaLog, BRe, BIm, CRe, CIm } = params;
  const gamma = Float64Array.from(gammaLog, exp);
  const scaled = (B: Float32Array) =>
    Float64Array.from(B, (b, i) => b * (gamma[Math.floor(i / D.length)] as number));
  return {
    lambda: powers(params, nuLog.length, (i) => [i, 1]),
    BNorm: { re: scaled(BRe), im: scaled(BIm) },
    C: { re: Float64Array.from(CRe), im: Float64Array.from(CIm) },
  };
}

/** [dState, length] lambda_n^t */
export function vandermonde(params: LruParams, length: number): Complex {
  return powers(params, params.nuLog.length * length, (i) => [Math.floor(i / length), i % length]);
}

/** [length, dModel, dModel], row by row y's feature o and x's feature j: Re(C lambda^t BNorm), and D on the diagonal at t = 0 */
export function impulseResponse(params: LruParams, length: number): Float64Array {
  const { D } = params;
  const [dModel, dState] = [D.length, params.nuLog.length];
  const { BNorm, C } = discretize(params);
  const K = vandermonde(params, length);
  const response = new Float64Array(length * dModel * dModel);
  const get = (values: Float64Array, i: number) => values[i] as number;
  for (let t = 0, at = 0; t < length; t++) {
    for (let o = 0; o < dModel; o++, at += dModel) {
      for (let n = 0; n < dState; n++) {
        const [cr, ci] = [get(C.re, o * dState + n), get(C.im, o * dState + n)];
        const [kr, ki] = [get(K.re, n * length + t), get(K.im, n * length + t)];
        const [re, im] = [cr * kr - ci * ki, cr * ki + ci * kr];
        for (let j = 0, b = n * dModel; j < dModel; j++, b++)
          response[at + j] = get(response, at + j) + re * get(BNorm.re, b) - im * get(BNorm.im, b);
      }
      if (t === 0) response[at + o] = get(response, at + o) + (D[o] as number);
    }
  }
  return response;
}

export function memoryOf({ name, dState, params }: LruStage): Memory {
  const { nu, theta } = eigenvalues(params);
  const radius = nu.map((rate) => exp(-rate));
  return {
    name,
    lambda: powers(params, dState, (i) => [i, 1]),
    radius,
    angle: theta,
    halfLife: nu.map((rate) => Math.LN2 / rate),
    maxRadius: Math.max(...radius),
  };
}

/** `count` powers of eigenvalues: of which of them, and which power. */
function powers(
  params: LruParams,
  count: number,
  of: (i: number) => readonly [n: number, k: number],
): Complex {
  const eigen = eigenvalues(params);
  const part = (power: typeof powerRe) =>
    Float64Array.from({ length: count }, (_, i) => power(eigen, ...of(i)));
  return { re: part(powerRe), im: part(powerIm) };
}
