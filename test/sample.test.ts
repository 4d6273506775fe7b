/** The draw of a token from its logits. */
import { expect, test } from "vitest";
import { uniforms } from "../src/init.js";
import { draw } from "../src/layers/sample.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { random } from "./support/problems.js";

const all = { temperature: 1, topK: Infinity, topP: 1 };
const shares = (logits: number[], options: Partial<typeof all>, draws = 20_000) => {
  const uniform = uniforms(1);
  const counts = logits.map(() => 0);
  for (let i = 0; i < draws; i++) {
    const id = draw(Float32Array.from(logits), { ...all, ...options }, uniform);
    counts[id] = (counts[id] as number) + 1;
  }
  return counts.map((count) => count / draws);
};
const softmax = (logits: number[]) => {
  const weights = logits.map(Math.exp);
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
};
const close = (actual: number[], expected: number[]) => {
  for (const [id, share] of actual.entries()) {
    const p = expected[id] as number;
    expect(Math.abs(share - p), `${id}`).toBeLessThanOrEqual(5 * Math.sqrt((p * (1 - p)) / 20_000));
  }
};
const logits = [0.5, -1, 2, 1.5, 0.5, -Infinity, 1];

test("by temperature", () => {
  close(shares(logits, {}), softmax(logits));
  close(shares(logits, { temperature: 0.3 }), softmax(logits.map((logit) => logit / 0.3)));
  expect(shares(logits, { temperature: 0 }, 10)[2]).toBeCloseTo(1);
  expect(shares(logits, { temperature: 1e-300 }, 10)[2]).toBeCloseTo(1);
});

test("by topK, of equal logits the first", () => {
  const kept = (ids: number[]) => softmax(logits.map((logit, id) => (ids.includes(id) ? logit : -Infinity)));
  close(shares(logits, { topK: 1 }), kept([2]));
  close(shares(logits, { topK: 3 }), kept([2, 3, 6]));
  close(shares(logits, { topK: 4 }), kept([2, 3, 6, 0]));
  close(shares(logits, { topK: 5 }), kept([2, 3, 6, 0, 4]));
  close(shares(logits, { topK: 100 }), softmax(logits));
});

test("by topP: the fewest that have it, of what topK leaves", () => {
  const even = [0, 0, 0, 0];
  close(shares(even, { topP: 0.5 }), [0.5, 0.5, 0, 0]);
  close(shares(even, { topP: 0.51 }), [1 / 3, 1 / 3, 1 / 3, 0]);
  close(shares(even, { topP: 1e-9 }), [1, 0, 0, 0]);
  close(shares(even, { topP: 0.5, topK: 2 }), [1, 0, 0, 0]);
  close(shares([Math.log(0.6), Math.log(0.3), Math.log(0.1)], { topP: 0.8 }), [2 / 3, 1 / 3, 0]);
});

test("keeps what a sort would, whatever the ties", () => {
  const next = random(3);
  for (let round = 0; round < 60; round++) {
    const many = Float32Array.from({ length: 1 + Math.floor(40 * next()) }, () => Math.floor(6 * next()));
    const topK = 1 + Math.floor(45 * next());
    const topP = round % 2 ? 1 : 0.01 + 0.98 * next();
    const order = [...many.keys()].sort((a, b) => (many[b] as number) - (many[a] as number)).slice(0, topK);
    const p = softmax(order.map((id) => many[id] as number));
    let sum = 0;
    const kept = order.filter((_, i) => {
      const before = sum;
      sum += p[i] as number;
      return topP === 1 || before < topP;
    });
    const drawn = new Set<number>();
    for (let i = 0; i < 4000; i++) drawn.add(draw(many, { ...all, topK, topP }, () => (i + 0.5) / 4000));
    expect([...drawn].sort()).toEqual(kept.sort());
  }
});

test.each([
  [[0, Number.NaN, 1], 1],
  [[Infinity, 0], 0],
  [[-Infinity, -Infinity], 0],
])("refuses %j", async (values, at) => {
  const error = await errorOf(() => draw(Float32Array.from(values), { ...all, temperature: 0 }, () => 0.5));
  expectLinrecError(error, "non-finite", new RegExp(`of token ${at},`));
});
