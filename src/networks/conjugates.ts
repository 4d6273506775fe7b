/** States that are each other's mirror image: one of two is enough. */
import { allocating } from "../errors.js";
import { checkLruParams } from "../lruParams.js";
import type { LruParams } from "../program.js";

/**
 * The same layer with fewer states. Where state m is the conjugate of state n, bit for bit (|lambda| and gamma equal, theta and
 * B_im negated), h_m stays conj(h_n), and both together give Re((C_n + conj(C_m)) h_n): n alone does, with that C. A layer
 * that comes from a real matrix has such pairs, and then half the states; its cache holds the states that
 * stay. What is not paired is kept, in its order; a layer with `thetaLog` has no negative angles, and no pairs.
 *
 * `engine.lru` and `engine.model` run such layers at half their cost as they are, with all states in the cache: this is for
 * parameters that are to be small.
 *
 * y is the same but for the rounding of C_n + conj(C_m), which is none where C has the same symmetry. An initial state without
 * it has no form here: such a layer has to keep all its states.
 *
 * Throws what `engine.lru` rejects with.
 */
export function mergeConjugates(params: LruParams): LruParams {
  checkLruParams(params);
  return allocating("the layer's parameters", () => merge(params, pairUp(params)));
}

export function keptOf({ nuLog }: LruParams, dropped: readonly number[]): number[] {
  const gone = new Set(dropped);
  return [...nuLog.keys()].filter((n) => !gone.has(n));
}

export function merge(params: LruParams, partners: ReadonlyMap<number, number>): LruParams {
  const kept = keptOf(params, [...partners.values()]);
  const dState = params.nuLog.length;
  /** [dModel, kept]: C_n + sign C_m */
  const columns = (C: Float32Array, sign: 1 | -1) =>
    Float32Array.from({ length: params.D.length * kept.length }, (_, i) => {
      const n = kept[i % kept.length] as number;
      const row = Math.floor(i / kept.length) * dState;
      const m = partners.get(n);
      return (C[row + n] as number) + (m === undefined ? 0 : sign * (C[row + m] as number));
    });
  return { ...pick(params, kept), CRe: columns(params.CRe, 1), CIm: columns(params.CIm, -1) };
}

/** The layer with these of its states alone, copied. */
export function pick(params: LruParams, states: readonly number[]): LruParams {
  const dModel = params.D.length;
  const dState = params.nuLog.length;
  const each = (values: Float32Array) => Float32Array.from(states, (n) => values[n] as number);
  const rows = (B: Float32Array) =>
    Float32Array.from({ length: states.length * dModel }, (_, i) => {
      return B[(states[Math.floor(i / dModel)] as number) * dModel + (i % dModel)] as number;
    });
  const columns = (C: Float32Array) =>
    Float32Array.from({ length: dModel * states.length }, (_, i) => {
      return C[Math.floor(i / states.length) * dState + (states[i % states.length] as number)] as number;
    });
  return {
    nuLog: each(params.nuLog),
    ...(params.theta ? { theta: each(params.theta) } : { thetaLog: each(params.thetaLog as Float32Array) }),
    gammaLog: each(params.gammaLog),
    BRe: rows(params.BRe),
    BIm: rows(params.BIm),
    CRe: columns(params.CRe),
    CIm: columns(params.CIm),
    D: params.D.slice(),
  };
}

/** Each state that has a conjugate, and which: every state is in one pair at most. */
export function pairUp({ nuLog, theta, gammaLog, BRe, BIm, D }: LruParams): Map<number, number> {
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
    // A file may have any number of equal ones, all different in B: of those the last are compared with.
    if (at < 0) waiting.set(key, [...candidates.slice(-63), m]);
    else partners.set(candidates.splice(at, 1)[0] as number, m);
  }
  return partners;
}
