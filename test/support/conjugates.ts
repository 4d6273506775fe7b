/** Layers whose states are each other's conjugates. */
import type { LruParams } from "../../src/index.js";
import { floats } from "./problems.js";

export type Shuffle = (n: number) => number;

/** A layer whose states are those of `half`, each followed by its conjugate, then put in another order; C as `mirror` says. */
export function paired(
  half: LruParams,
  mirror: "the same" | "another C",
  order: Shuffle = (n) => n,
): LruParams {
  const dModel = half.D.length;
  const count = half.nuLog.length;
  const all = Array.from({ length: 2 * count }, (_, i) => i).sort((a, b) => order(a) - order(b));
  const sign = (i: number) => (i % 2 ? -1 : 1);
  const states = (values: Float32Array, signed = false) =>
    Float32Array.from(all, (i) => (signed ? sign(i) : 1) * (values[i >> 1] as number));
  const rows = (B: Float32Array, signed = false) =>
    Float32Array.from(
      all.flatMap((i) =>
        [...B.subarray((i >> 1) * dModel, ((i >> 1) + 1) * dModel)].map(
          (value) => (signed ? sign(i) : 1) * value,
        ),
      ),
    );
  const other = floats(2 * count * dModel, 5, 0.3);
  const columns = (C: Float32Array, signed = false) =>
    Float32Array.from({ length: dModel * 2 * count }, (_, at) => {
      const [o, i] = [Math.floor(at / (2 * count)), all[at % (2 * count)] as number];
      if (mirror === "another C" && i % 2) return other[at] as number;
      return (signed ? sign(i) : 1) * (C[o * count + (i >> 1)] as number);
    });
  return {
    nuLog: states(half.nuLog),
    theta: states(half.theta as Float32Array, true),
    gammaLog: states(half.gammaLog),
    BRe: rows(half.BRe),
    BIm: rows(half.BIm, true),
    CRe: columns(half.CRe),
    CIm: columns(half.CIm, true),
    D: half.D,
  };
}

/** The same layer with every state real but the first `complex`. */
export function real(params: LruParams, complex = 0): LruParams {
  const rows = complex * params.D.length;
  return {
    ...params,
    theta: (params.theta as Float32Array).map((value, n) => (n < complex ? value : 0)),
    BIm: params.BIm.map((value, i) => (i < rows ? value : 0)),
  };
}

/** Evens from the left, odds from the right: no state stands beside its conjugate. */
export const apart: Shuffle = (i) => (i % 2 ? 1000 - i : i);
