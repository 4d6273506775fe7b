/**
 * How far float32 can be from the truth: a bound in the style of Higham, "Accuracy and Stability of Numerical Algorithms",
 * chapter 3, followed through the recurrence. With h in float64, and per state
 *
 *   s[t] = max(|lambda| s[t-1], |h[t]|)             no part of h, however it is split, is larger than 2 s
 *   E[t] = |lambda| E[t-1] + |error of bu[t]| + u c s[t]
 *   |error of y[t]| <= |C| (E[t] + u c s[t]) + gamma(2 dState + 3) (|C| s[t] + |D| |x[t]|)
 */
import { exp } from "../elementary.js";
import { eigenvalues, normalizedB, powerIm, powerRe } from "../params.js";
import type { LruParams } from "../program.js";

/** Half the distance from 1 to the next float32. */
const U = 2 ** -24;

/** Half the smallest float32: what a product that underflows may lose. */
const UNDERFLOW = 2 ** -150;

/** Roundings of lambda, of its product with a part of h (sqrt(5) u for a complex product) and of the sum, on parts up to 2 s. */
const PER_TOKEN = 2 * (Math.sqrt(5) + 3);

/** The most that a sum of n products can be off, relative to the sum of their magnitudes. */
const gamma = (n: number): number => (n * U) / (1 - n * U);

/**
 * x [batch, seqLen, dModel] -> [batch, seqLen, dModel] float64: no backend's y is further than this from the float64
 * reference. `initial` gives h before the first token, [dState] of each row.
 */
export function errorBound(
  params: LruParams,
  x: Float32Array,
  batch: number,
  initial: (row: number) => { re: Float64Array; im: Float64Array },
): Float64Array {
  const [dModel, dState] = [params.D.length, params.nuLog.length];
  const seqLen = x.length / (batch * dModel);
  const eigen = eigenvalues(params);
  const B = normalizedB(params);
  const [lambdaRe, lambdaIm] = [powerRe, powerIm].map((power) =>
    Float64Array.from({ length: dState }, (_, n) => power(eigen, n, 1)),
  ) as [Float64Array, Float64Array];
  const radius = Float64Array.from(eigen.nu, (nu) => exp(-nu));
  const absC = Float64Array.from(params.CRe, (re, i) => Math.hypot(re, params.CIm[i] as number));
  const bound = new Float64Array(x.length);
  const [s, E] = [new Float64Array(dState), new Float64Array(dState)];
  const perProduct = gamma(dModel + 2);
  const perOutput = gamma(2 * dState + 3);
  for (let row = 0; row < batch; row++) {
    const { re, im } = initial(row);
    for (let n = 0; n < dState; n++) {
      s[n] = Math.hypot(re[n] as number, im[n] as number);
      E[n] = U * (s[n] as number);
    }
    for (let t = row * seqLen; t < (row + 1) * seqLen; t++) {
      const u = x.subarray(t * dModel, (t + 1) * dModel);
      for (let n = 0; n < dState; n++) {
        let [buRe, buIm, absRe, absIm] = [0, 0, 0, 0];
        for (let j = 0, i = n * dModel; j < dModel; j++, i++) {
          const [a, b] = [(B.re[i] as number) * (u[j] as number), (B.im[i] as number) * (u[j] as number)];
          buRe += a;
          buIm += b;
          absRe += Math.abs(a);
          absIm += Math.abs(b);
        }
        const [lr, li] = [lambdaRe[n] as number, lambdaIm[n] as number];
        const [hr, hi] = [re[n] as number, im[n] as number];
        re[n] = lr * hr - li * hi + buRe;
        im[n] = lr * hi + li * hr + buIm;
        const r = radius[n] as number;
        const size = Math.max(r * (s[n] as number), Math.hypot(re[n] as number, im[n] as number));
        s[n] = size;
        const product = perProduct * Math.hypot(absRe, absIm) + 2 * (dModel + 4) * UNDERFLOW;
        E[n] = r * (E[n] as number) + product + U * PER_TOKEN * size;
      }
      for (let o = 0; o < dModel; o++) {
        const skip = Math.abs((params.D[o] as number) * (u[o] as number));
        let [state, sum] = [0, skip];
        for (let n = 0, i = o * dState; n < dState; n++, i++) {
          const [c, size] = [absC[i] as number, s[n] as number];
          state += c * ((E[n] as number) + U * PER_TOKEN * size);
          sum += 2 * c * size;
        }
        bound[t * dModel + o] = state + perOutput * sum + (4 * dState + 4) * UNDERFLOW;
      }
    }
  }
  return bound;
}
