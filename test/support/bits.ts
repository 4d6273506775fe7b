/** Comparisons bit for bit: 0 is not -0, and a NaN is only the same NaN. */
import { expect } from "vitest";
import type { AnyCache } from "../../src/layers/cache.js";
import type { Tensor } from "../../src/tensor.js";

type Values = Tensor["data"];

/** Fails unless both hold the same bits, naming the first value that differs. */
export function expectSameBits(actual: Values, expected: Values, what: string): void {
  expect(actual.length, `${what}: length`).toBe(expected.length);
  // Word by word in a plain loop: some tests compare millions of values.
  const isAligned = (actual.byteOffset | expected.byteOffset | expected.byteLength) % 4 === 0;
  const [a, b] = [actual, expected].map(({ buffer, byteOffset, byteLength }) =>
    isAligned
      ? new Int32Array(buffer, byteOffset, byteLength / 4)
      : new Uint8Array(buffer, byteOffset, byteLength),
  ) as [Uint8Array, Uint8Array];
  let at = 0;
  while (at < b.length && a[at] === b[at]) at++;
  if (at === b.length) return;
  const i = Math.floor((at * b.BYTES_PER_ELEMENT) / expected.BYTES_PER_ELEMENT);
  expect.fail(`${what}: [${i}] of ${expected.length} is ${actual[i]}, expected ${expected[i]}`);
}

interface StateOwner<Cache> {
  serializeState(state: Cache): Uint8Array;
}

/** Fails unless two states are the same in every bit that is carried on, and in what `get()` shows of it. */
export function expectSameState<Cache extends AnyCache>(
  [owner, actual]: readonly [StateOwner<Cache>, Cache],
  [otherOwner, expected]: readonly [StateOwner<Cache>, Cache],
  what: string,
): void {
  const [a, b] = [actual.get(), expected.get()].map((h) => (Array.isArray(h) ? h : [h]));
  for (const [i, layer] of (b ?? []).entries()) {
    expectSameBits(a?.[i]?.re as Float32Array, layer.re, `${what}: re of layer ${i}`);
    expectSameBits(a?.[i]?.im as Float32Array, layer.im, `${what}: im of layer ${i}`);
  }
  expectSameBits(owner.serializeState(actual), otherOwner.serializeState(expected), `${what}: state bytes`);
}
