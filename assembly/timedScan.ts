// h[t] = lambda^dt[t] h[t-1] + bu[t]: the scan of tokens that are any time apart, one after the other.
import { advanceCarry, roundCarry } from "./carry";
import { timedLambda } from "./timedLambda";

/**
 * In float64, with what is carried: where lambda differs from token to token there is no chunk to sum up by itself.
 *
 * h      [tokens, groups, re x 4 | im x 4] float32: bu on entry, h on return
 * carry  [groups, re x 4 | im x 4] float64: h before the first token, advanced in place
 * lambda [TABLES][groups, re x 4 | im x 4] float64, then [TABLES] float32: working memory
 * rates  [groups, nu x 4 | high x 4 | low x 4] float64, as in timedLambda
 * real   each part is a state by itself: twice as many groups in lambda and rates, real parts before imaginary ones
 * dt     [tokens] float32
 */
export function timedScan(
  h: usize, carry: usize, lambda: usize, rates: usize, dt: usize, tokens: i32, groups: i32, real: bool,
): void {
  // The tables of the last few values, for timesteps that come again: a new one takes the place of the oldest.
  const shift: usize = real ? 7 : 6;
  const tableBytes = <usize>groups << shift;
  const keys = lambda + TABLES * tableBytes;
  for (let i: usize = 0; i < TABLES; i++) store<f32>(keys + (i << 2), f32.NaN);
  let oldest: usize = 0;
  let table = lambda;
  let last = f32.NaN;
  const end = dt + (<usize>tokens << 2);
  for (; dt < end; dt += 4) {
    const now = load<f32>(dt);
    if (now != last) {
      last = now;
      let i: usize = 0;
      while (i < TABLES && load<f32>(keys + (i << 2)) != now) i++;
      table = lambda + i * tableBytes;
      if (i == TABLES) {
        table = lambda + oldest * tableBytes;
        store<f32>(keys + (oldest << 2), now);
        timedLambda(table, rates, now, real ? groups << 1 : groups);
        if (real) {
          // The real parts of the second of two groups are the imaginary ones of the first.
          for (let at: usize = 0; at < tableBytes; at += 128) memory.copy(table + at + 32, table + at + 64, 32);
        }
        oldest = (oldest + 1) % TABLES;
      }
    }
    for (let g: usize = 0; g < <usize>groups; g++, h += 32) {
      advanceCarry(carry + (g << 6), h, table + (g << shift), real);
      roundCarry(h, carry + (g << 6));
    }
  }
}

/** As in src/cpu/packed.ts. */
const TABLES: usize = 8;
