/** Which token follows, from its logits. Plain arithmetic in float64, no `Math.exp`: the same on every machine. */
import { LinrecError } from "./errors.js";

export interface Sampling {
  /** 0: the likeliest token */
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
}

/**
 * logits [n] -> an id below n. With temperature 0 the first of the likeliest. Else drawn by `uniform`, of (0, 1), from
 * p = softmax(logits / temperature): among the topK likeliest ids, and of these the fewest whose p (made to sum to 1 again)
 * come to topP; of equal logits the lower id goes first. Throws `non-finite` where no logit is the largest.
 */
export function draw(logits: Float32Array, sampling: Sampling, uniform: () => number): number {
  const { temperature } = sampling;
  const likeliest = argmax(logits);
  if (temperature === 0) return likeliest;
  const max = logits[likeliest] as number;
  const weight = (logit: number) => exp((logit - max) / temperature);
  const { least, ties } = threshold(logits, sampling, weight);

  let left = ties;
  const weights = Float64Array.from(logits, (logit) =>
    logit > least || (logit === least && left-- > 0) ? weight(logit) : 0,
  );
  let rest = uniform() * weights.reduce((sum, value) => sum + value);
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

/** The least logit that may be drawn, and how many of those that equal it. */
function threshold(
  logits: Float32Array,
  { topK, topP }: Sampling,
  weight: (logit: number) => number,
): { least: number; ties: number } {
  const n = logits.length;
  if (topK >= n && topP === 1) return { least: -Infinity, ties: n };
  const sorted = logits.slice().sort(); // ascending
  const top = sorted.subarray(Math.max(0, n - topK)).reverse();
  let last = top.length - 1;
  if (topP < 1) {
    let left = topP * top.reduce((sum, logit) => sum + weight(logit), 0);
    const enough = top.findIndex((logit) => {
      left -= weight(logit);
      return left <= 0;
    });
    if (enough >= 0) last = enough;
  }
  const least = top[last] as number;
  return { least, ties: last + 1 - top.indexOf(least) };
}

/** exp(x) for x <= 0, to 1e-12: by the Taylor sum of x / 1024, squared ten times. */
function exp(x: number): number {
  if (!(x > -700)) return 0;
  let sum = 1;
  for (let k = 16; k > 0; k--) sum = 1 + (x / 1024 / k) * sum;
  for (let i = 0; i < 10; i++) sum *= sum;
  return sum;
}
