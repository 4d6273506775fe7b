// Numbers at random, the same for the same seed: without anything of Node's, for pages and tests too.

/**
 * mulberry32: numbers in [0, 1), the same for the same seed.
 * @param {number} seed
 */
export function random(seed) {
  let a = seed | 0;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * `length` float32 numbers in [-magnitude, magnitude).
 * @param {number} length
 * @param {number} seed
 */
export function floats(length, seed, magnitude = 1) {
  const next = random(seed);
  return Float32Array.from({ length }, () => magnitude * (2 * next() - 1));
}

/** An integer in [low, high]. */
export const between = (next, low, high) => low + Math.floor(next() * (high - low + 1));

export const pick = (next, choices) => choices[Math.floor(next() * choices.length)];
