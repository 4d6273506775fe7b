/** What lambda is derived with: right, and the same bits in every JavaScript engine (this file runs in Node and in a browser). */
import { expect, test } from "vitest";
import { cos, exp, sin } from "../src/elementary.js";
import { createEngine } from "../src/index.js";

/** Numbers from -1 to 1, of 53 bits: the same everywhere. */
function numbers(count: number): number[] {
  let seed = 1;
  const next = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
  return Array.from({ length: count }, () => 2 * (next() + next() / 2 ** 32) - 1);
}

/** Of bytes: FNV-1a. */
function hash(...arrays: readonly ArrayBufferView[]): number {
  let value = 0x811c9dc5;
  for (const { buffer, byteOffset, byteLength } of arrays) {
    for (const byte of new Uint8Array(buffer, byteOffset, byteLength))
      value = Math.imul(value ^ byte, 0x01000193);
  }
  return value >>> 0;
}

test.each([
  ["exp", exp, Math.exp, 700],
  ["exp near 0", exp, Math.exp, 1e-3],
  ["sin", sin, Math.sin, 400],
  ["cos", cos, Math.cos, 400],
  ["sin near 0", sin, Math.sin, 1e-3],
  ["sin, many turns", sin, Math.sin, 2 ** 20],
  ["cos, more turns than fit a double", cos, Math.cos, 1e40],
] as const)("%s is what Math has, but for its last bits", (_, own, theirs, range) => {
  for (const number of numbers(20_000)) {
    const x = number * range;
    const [came, expected] = [own(x), theirs(x)];
    const scale = own === exp ? expected : 1;
    expect(Math.abs(came - expected) / scale, String(x)).toBeLessThan(2 ** -50);
  }
});

test("at their ends", () => {
  expect([exp(0), exp(Infinity), exp(-Infinity), exp(-746), sin(0), cos(0)]).toEqual([
    1,
    Infinity,
    0,
    0,
    0,
    1,
  ]);
  expect(exp(-744)).toBe(1e-323);
});

test("lambda, y and states are the same to the bit in every engine", async () => {
  await using engine = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
  const [dModel, dState, seqLen] = [2, 256, 30];
  const all = numbers(4 * dModel * dState + dModel + 2 * dState + dModel * seqLen);
  const take = (count: number, change = (value: number) => value) =>
    Float32Array.from(all.splice(0, count), change);
  const lru = await engine.lru({
    nuLog: take(dState, (value) => 4 * value - 6),
    thetaLog: take(dState, (value) => 2 * value - 0.5),
    gammaLog: new Float32Array(dState).fill(-2),
    BRe: take(dState * dModel),
    BIm: take(dState * dModel),
    CRe: take(dModel * dState),
    CIm: take(dModel * dState),
    D: take(dModel),
  });
  const { lambda } = lru.discretize();
  const x = take(dModel * seqLen);
  const { y, state } = await lru.forward(
    Float32Array.from({ length: 1000 * dModel }, (_, i) => x[i % x.length] as number),
  );
  expect([hash(lambda.re, lambda.im), hash(y), hash(lru.serializeState(state))]).toEqual([
    267029969, 431796333, 376530569,
  ]);
});
