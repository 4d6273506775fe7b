/** What the checks of kernels compare with, and how: by a bound, or to the bit. */
import type { Bench } from "../bench.js";
import { random } from "../problems.js";

/** Checks by name. Each throws at its first fault. */
export type Checks = Readonly<Record<string, (bench: Bench) => void>>;

export const U = 2 ** -24;

export function near(actual: Values, expected: Values, allowed: (i: number) => number, what: string): void {
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] as number, expected[i] as number];
    if (a !== e && !(Math.abs(a - e) <= allowed(i)))
      throw new Error(`${what}: [${i}] is ${a}, expected ${e}`);
  }
}

export function same(actual: Values, expected: Values, what: string): void {
  for (let i = 0; i < expected.length; i++)
    if (!Object.is(actual[i], expected[i]))
      throw new Error(`${what}: [${i}] is ${actual[i]}, expected ${expected[i]}`);
}

type Values = Float32Array | Float64Array;

export const doubles = (length: number, seed: number) => {
  const next = random(seed);
  return Float64Array.from({ length }, () => 2 * next() - 1);
};

export type Complex = [number | undefined, number | undefined];

export function product(a: Complex, b: Complex): [number, number] {
  const [[ar, ai], [br, bi]] = [a as [number, number], b as [number, number]];
  return [ar * br - ai * bi, ar * bi + ai * br];
}
