// h[t] = lambda^dt[t] h[t-1] + bu[t]: the scan of tokens that are any time apart, one after the other.
import { advanceCarry, roundCarry } from "./carry";
import { timedLambda } from "./timedLambda";

/**
 * In float64, with what is carried: where lambda differs from token to token there is no chunk to sum up by itself.
 *
 * h      [tokens, groups, re x 4 | im x 4] float32: bu on entry, h on return
 * carry  [groups, re x 4 | im x 4] float64: h before the first token, advanced in place
 * lambda [groups, re x 4 | im x 4] float64: working memory
 * rates  [groups, nu x 4 | high x 4 | low x 4] float64, as in timedLambda
 * dt     [tokens] float32
 */
export function timedScan(
  h: usize, carry: usize, lambda: usize, rates: usize, dt: usize, tokens: i32, groups: i32,
): void {
  let last = f32.NaN;
  const end = dt + (<usize>tokens << 2);
  for (; dt < end; dt += 4) {
    const now = load<f32>(dt);
    if (now != last) timedLambda(lambda, rates, now, groups);
    last = now;
    for (let g: usize = 0; g < <usize>groups; g++, h += 32) {
      advanceCarry(carry + (g << 6), h, lambda + (g << 6));
      roundCarry(h, carry + (g << 6));
    }
  }
}
