/** Layers in parts: one of two states that are conjugate, and two that are real as one. */
import { eigenvalues, normalizedB } from "../params.js";
import type { LruParams, StageParams } from "../program.js";
import { keptOf, merge, pairUp, pick } from "./conjugates.js";

/**
 * What `halves.ts` runs in place of a layer, with states of each pair that stay and those that are their conjugates (`of`);
 * undefined where no two of its states are a pair, or their C have no sum.
 */
export function splitPairs(params: LruParams) {
  const pairs = pairUp(params);
  if (pairs.size === 0) return undefined;
  const merged = merge(params, pairs);
  if (![merged.CRe, merged.CIm].every((C) => C.every(Number.isFinite))) return undefined;
  const dropped = [...pairs.values()];
  const B = new Float32Array(dropped.length * params.D.length);
  const rest = { ...pick(params, dropped), BRe: B, BIm: B, D: params.D.map(() => 0) };
  return { kept: keptOf(params, dropped), dropped, of: [...pairs.keys()], merged, rest };
}

/**
 * The same for states that are real: lambda and their row of B are. Two of them are the parts of one complex state, of which each
 * part has a lambda of its own: `parts`, with those of x, and `rest`, with the imaginary parts, which read nothing. Undefined
 * where that saves little.
 */
export function splitReals(params: LruParams) {
  const { theta } = eigenvalues(params);
  const width = params.D.length;
  const isReal = (n: number) =>
    theta[n] === 0 && !params.BIm.subarray(n * width, (n + 1) * width).some(Boolean);
  const reals = [...theta.keys()].filter(isReal);
  const others = keptOf(params, reals);
  // In groups of four, as the kernels take them; another part costs more than its states.
  const [all, rest] = [theta, others].map(({ length }) => Math.ceil(length / 4)) as [number, number];
  const saved = all - rest - Math.ceil(reals.length / 8);
  if (saved < (rest > 0 ? all / 8 : 1)) return undefined;

  const { re } = normalizedB(params);
  const pack = (C: Float32Array, sign: 1 | -1, reads: boolean): StageParams => {
    const of = (part: 0 | 1) =>
      Array.from({ length: Math.ceil(reals.length / 2) }, (_, i) => reals[2 * i + part]);
    const nuLog = (part: 0 | 1) => Float32Array.from(of(part), (n) => params.nuLog[n ?? 0] as number);
    const B = (part: 0 | 1) =>
      Float32Array.from(
        of(part).flatMap((n) =>
          Array.from({ length: width }, (_, j) =>
            reads && n !== undefined ? (re[n * width + j] as number) : 0,
          ),
        ),
      );
    const columns = (part: 0 | 1, sign: number) =>
      Float32Array.from(
        Array.from({ length: width }, (_, j) =>
          of(part).map((n) => (n === undefined ? 0 : sign * (C[j * theta.length + n] as number))),
        ).flat(),
      );
    const zeros = new Float32Array(of(0).length);
    return {
      ...{ nuLog: nuLog(0), nuLogIm: nuLog(1), theta: zeros, gammaLog: zeros },
      ...{ BRe: B(0), BIm: B(1), CRe: columns(0, sign), CIm: columns(1, -sign) },
      D: reads && rest === 0 ? params.D.slice() : new Float32Array(width),
    };
  };
  return {
    ...{ reals, others },
    complex: rest > 0 ? pick(params, others) : undefined,
    parts: pack(params.CRe, 1, true),
    rest: pack(params.CIm, -1, false),
  };
}
