/** States that are each other's mirror image: one of two is enough. */
import type { LruParams } from "../program.js";
import { checkLruParams } from "./lru.js";

/**
 * The same layer with fewer states. Where state m is the conjugate of state n, bit for bit (|lambda| and gamma equal, theta and
 * B_im negated), h_m stays conj(h_n), and both together give Re((C_n + conj(C_m)) h_n): n alone does, with that C. A layer
 * that comes from a real matrix has such pairs, and then half the states and half the cost; its cache holds the states that
 * stay. What is not paired is kept, in its order; a layer with `thetaLog` has no negative angles, and no pairs.
 *
 * y is the same but for the rounding of C_n + conj(C_m), which is none where C has the same symmetry. An initial state without
 * it has no form here: such a layer has to keep all its states.
 *
 * Throws what `engine.lru` rejects with.
 */
export function mergeConjugates(params: LruParams): LruParams {
  checkLruParams(params);
  const partners = pairUp(params);
  const dModel = params.D.length;
  const dState = params.nuLog.length;
  const dropped = new Set(partners.values());
  const kept = [...params.nuLog.keys()].filter((n) => !dropped.has(n));
  const states = (values: Float32Array) => Float32Array.from(kept, (n) => values[n] as number);
  const rows = (B: Float32Array) =>
    Float32Array.from({ length: kept.length * dModel }, (_, i) => {
      return B[(kept[Math.floor(i / dModel)] as number) * dModel + (i % dModel)] as number;
    });
  /** [dModel, kept]: C_n + sign C_m */
  const columns = (C: Float32Array, sign: 1 | -1) =>
    Float32Array.from({ length: dModel * kept.length }, (_, i) => {
      const n = kept[i % kept.length] as number;
      const row = Math.floor(i / kept.length) * dState;
      const m = partners.get(n);
      return (C[row + n] as number) + (m === undefined ? 0 : sign * (C[row + m] as number));
    });
  return {
    nuLog: states(params.nuLog),
    ...(params.theta
      ? { theta: states(params.theta) }
      : { thetaLog: states(params.thetaLog as Float32Array) }),
    gammaLog: states(params.gammaLog),
    BRe: rows(params.BRe),
    BIm: rows(params.BIm),
    CRe: columns(params.CRe, 1),
    CIm: columns(params.CIm, -1),
    D: params.D.slice(),
  };
}

/** Each state that has a conjugate, and which: every state is in one pair at most. */
function pairUp({ nuLog, theta, gammaLog, BRe, BIm, D }: LruParams): Map<number, number> {
  const partners = new Map<number, number>();
  if (!theta) return partners;
  const width = D.length;
  /** States without a partner so far, by what a pair has in common. */
  const waiting = new Map<string, number[]>();
  const conjugate = (n: number, m: number) => {
    if (theta[n] !== -(theta[m] as number)) return false;
    for (let j = 0; j < width; j++) {
      const [a, b] = [n * width + j, m * width + j];
      if (BRe[a] !== BRe[b] || BIm[a] !== -(BIm[b] as number)) return false;
    }
    return true;
  };
  for (const [m, nu] of nuLog.entries()) {
    const key = `${nu} ${Math.abs(theta[m] as number)} ${gammaLog[m]}`;
    const candidates = waiting.get(key) ?? [];
    const at = candidates.findIndex((n) => conjugate(n, m));
    if (at < 0) waiting.set(key, [...candidates, m]);
    else partners.set(candidates.splice(at, 1)[0] as number, m);
  }
  return partners;
}
