/** Which token follows, from its logits. In float64, the same on every machine. */
import { exp } from "../elementary.js";
import { LinrecError } from "../errors.js";

export interface Sampling {
  /** 0: the likeliest token */
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
}

/**
 * logits [n] -> an id below n. With temperature 0 the first of the likeliest. Else drawn by `uniform`, of (0, 1), from
 * p = softmax(logits / temperature): among the topK likeliest ids, and of these the fewest whose p (made to sum to 1 again)
 * come to topP; of equal p the lower id goes first. Throws `non-finite` where no logit is the largest.
 */
export function draw(
  logits: Float32Array,
  { temperature, topK, topP }: Sampling,
  uniform: () => number,
): number {
  const likeliest = argmax(logits);
  if (temperature === 0) return likeliest;
  const max = logits[likeliest] as number;
  const weights = new Float64Array(logits.length);
  for (let i = 0; i < weights.length; i++) weights[i] = exp(((logits[i] as number) - max) / temperature);
  if (topK < weights.length) keep(weights, topK, () => 1);
  if (topP < 1) keep(weights, topP * sum(weights), (weight) => weight);
  let rest = uniform() * sum(weights);
  let id = likeliest;
  for (let i = 0; i < weights.length && rest > 0; i++) {
    if (weights[i] === 0) continue;
    rest -= weights[i] as number;
    id = i;
  }
  return id;
}

function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    if (logit > (logits[best] as number) || Number.isNaN(logit)) best = id;
  }
  if (Number.isFinite(logits[best])) return best;
  throw new LinrecError(
    "non-finite",
    `The largest logit, of token ${best}, is ${logits[best]}: no token can be chosen.`,
  );
}

function sum(values: Float64Array): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i] as number;
  return total;
}

/** Zeroes all but the fewest largest weights whose `size`s come to `target`; of equal ones the first stay. */
function keep(weights: Float64Array, target: number, size: (weight: number) => number): void {
  const { least, ties } = select(weights.slice(), target, size);
  for (let i = 0, left = ties; i < weights.length; i++) {
    const weight = weights[i] as number;
    if (weight < least || (weight === least && left-- <= 0)) weights[i] = 0;
  }
}

/** The least value to keep, and how many that equal it: quickselect, from the top, by what the values come to. */
function select(
  values: Float64Array,
  target: number,
  size: (value: number) => number,
): { least: number; ties: number } {
  let [start, end, left] = [0, values.length, target];
  for (;;) {
    const pivot = values[(start + end) >> 1] as number;
    // Larger than the pivot: start to equal; the same: to i; smaller: from rest.
    let [equal, i, rest, larger] = [start, start, end, 0];
    while (i < rest) {
      const value = values[i] as number;
      if (value < pivot) {
        values[i] = values[--rest] as number;
        values[rest] = value;
        continue;
      }
      if (value > pivot) {
        values[i] = values[equal] as number;
        values[equal++] = value;
        larger += size(value);
      }
      i++;
    }
    const [each, count] = [size(pivot), rest - equal];
    if (equal > start && larger >= left) end = equal;
    else if (rest === end || larger + each * count >= left) {
      return { least: pivot, ties: Math.max(1, Math.min(count, Math.ceil((left - larger) / each))) };
    } else {
      left -= larger + each * count;
      start = rest;
    }
  }
}
