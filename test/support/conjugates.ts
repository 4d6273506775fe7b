/** Layers whose states are each other's conjugates, or real, and states for them to start from. */
import type { LruCache, LruParams } from "../../src/index.js";
import { floats, hardParams } from "./problems.js";

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

/** Layers of 16 states; what stands apart is sorted out and put back. */
export const kinds = {
  /** 2 x 7 in pairs, and two that have none, of which one is real. */
  pairs: (dModel: number): LruParams => {
    const alone = hardParams(dModel, 2, 9);
    (alone.theta as Float32Array)[1] = 0;
    return joined(paired(hardParams(dModel, 7, 1), "another C", apart), alone);
  },
  reals: (dModel: number) => real(hardParams(dModel, 16, 1)),
  /** 9 that are real, 2 of them the same; 2 x 3 in pairs; one that is neither. */
  both: (dModel: number) => {
    const nine = real(hardParams(dModel, 10, 4), 1);
    for (const name of ["nuLog", "gammaLog"] as const) nine[name][9] = nine[name][8] as number;
    nine.BRe.copyWithin(9 * dModel, 8 * dModel, 9 * dModel);
    return joined(nine, paired(hardParams(dModel, 3, 1), "another C", apart));
  },
} as const;

type Kind = keyof typeof kinds;
export const layers = Object.keys(kinds) as Kind[];

/** The states of both, with the D of the second. */
function joined(a: LruParams, b: LruParams): LruParams {
  const both = (name: "nuLog" | "theta" | "gammaLog" | "BRe" | "BIm") =>
    Float32Array.from([...(a[name] as Float32Array), ...(b[name] as Float32Array)]);
  const [m, n] = [a.nuLog.length, b.nuLog.length];
  const columns = (name: "CRe" | "CIm") =>
    Float32Array.from({ length: b.D.length * (m + n) }, (_, i) => {
      const [o, at] = [Math.floor(i / (m + n)), i % (m + n)];
      return (at < m ? a[name][o * m + at] : b[name][o * n + at - m]) as number;
    });
  const B = { BRe: both("BRe"), BIm: both("BIm") };
  const C = { CRe: columns("CRe"), CIm: columns("CIm") };
  return { nuLog: both("nuLog"), theta: both("theta"), gammaLog: both("gammaLog"), ...B, ...C, D: b.D };
}

export const dState = 16;

/** Sets the last rows' states to anything, and the second row's to zeros but for one part of one state. */
export function disturb(cache: LruCache): void {
  const [re, im] = [1, 2].map((seed) => floats(cache.batch * dState, seed)) as [Float32Array, Float32Array];
  re.fill(0, 0, 2 * dState);
  im.fill(0, 0, 2 * dState);
  if (cache.batch > 1) re[dState + 3] = 0.5;
  cache.set(re, im);
}

export const starts = { zeros: () => undefined, "any states": disturb } as const;
