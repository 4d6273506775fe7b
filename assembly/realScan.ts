// loc[k] = lambda loc[k-1] + bu[k] over each chunk from 0, where each part of a state is a state by itself.
import { madd } from "./simd";

/**
 * What projectScan does to bu, for real states: two are the parts of one, and nothing is between them.
 *
 * h        [tokens, groups, 8] float32: bu on entry, loc on return
 * lambda   [groups, 8] float32
 * stateLoc [groups, 8] float32: loc before the first token, read if k0 > 0
 * zeros    [groups, 8] float32: loc before every later chunk
 */
export function realScan(
  h: usize, lambda: usize, stateLoc: usize, zeros: usize, tokens: i32, k0: i32, chunk: i32, groups: i32,
): void {
  const stride = <usize>groups << 5;
  let before = k0 > 0 ? stateLoc : zeros;
  for (let t = 0, k = k0; t < tokens; t++) {
    for (let at: usize = 0; at < stride; at += 16) {
      v128.store(h + at, madd(v128.load(lambda + at), v128.load(before + at), v128.load(h + at)));
    }
    before = h;
    h += stride;
    if (++k == chunk) {
      before = zeros;
      k = 0;
    }
  }
}
