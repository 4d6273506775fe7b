// The scan of (a part of) one chunk, in the place of bu: what `projectScan` and `projectHidden` share.
import { cmaddIm, cmaddRe } from "./simd";

/** Chunks that are projected before the first is scanned: few, for bu to be in a cache of 32 KiB still. */
export const BLOCK_CHUNKS = 8;

/**
 * Of two groups of four states, `second` bytes from each other: a token's state waits for that of the token before it, two
 * multiply-adds long, and each group goes on while the other waits. A group that has no other beside it is both: second = 0.
 * h of a token is made after loc of the next one, which the processor then begins first: all that follows waits for that.
 *
 * h       rows of `stride` bytes, each with [re x 4 | im x 4] float32 of either group: bu on entry; on return loc, or, if `fused`,
 *         h = loc + lambda^(k+1) carry
 * lambda  the same
 * state   the same: loc before the first token, left with loc of the last
 * powers  lambda^(k+1) of the tokens, in the shape of h; read if `fused`
 * carry   in the shape of lambda: the carry into the chunk; read if `fused`
 */
// @ts-ignore: decorator
@inline
export function scanPair(
  fused: bool, second: usize, h: usize, stride: usize, lambda: usize, state: usize, powers: usize, carry: usize, tokens: i32,
): void {
  const lr0 = v128.load(lambda), li0 = v128.load(lambda, 16), lr1 = v128.load(lambda + second), li1 = v128.load(lambda + second, 16);
  let r0 = v128.load(state), i0 = v128.load(state, 16), r1 = v128.load(state + second), i1 = v128.load(state + second, 16);
  const zero = f32x4.splat(0);
  const cr0 = fused ? v128.load(carry) : zero, ci0 = fused ? v128.load(carry, 16) : zero;
  const cr1 = fused ? v128.load(carry + second) : zero, ci1 = fused ? v128.load(carry + second, 16) : zero;
  let other = h + second;
  let r = cmaddRe(lr0, li0, r0, i0, v128.load(h));
  i0 = cmaddIm(lr0, li0, r0, i0, v128.load(h, 16));
  r0 = r;
  // Either group's bu is read before the other's h is written: they may be the same.
  r = cmaddRe(lr1, li1, r1, i1, v128.load(other));
  i1 = cmaddIm(lr1, li1, r1, i1, v128.load(other, 16));
  r1 = r;
  while (--tokens > 0) {
    const next = h + stride;
    r = cmaddRe(lr0, li0, r0, i0, v128.load(next));
    let i = cmaddIm(lr0, li0, r0, i0, v128.load(next, 16));
    write(fused, h, r0, i0, powers, cr0, ci0);
    r0 = r;
    i0 = i;
    const nextOther = other + stride;
    r = cmaddRe(lr1, li1, r1, i1, v128.load(nextOther));
    i = cmaddIm(lr1, li1, r1, i1, v128.load(nextOther, 16));
    write(fused, other, r1, i1, powers + second, cr1, ci1);
    r1 = r;
    i1 = i;
    h = next;
    other = nextOther;
    powers += stride;
  }
  write(fused, h, r0, i0, powers, cr0, ci0);
  write(fused, other, r1, i1, powers + second, cr1, ci1);
  v128.store(state, r0);
  v128.store(state, i0, 16);
  v128.store(state + second, r1);
  v128.store(state + second, i1, 16);
}

/** Stores loc, or h = loc + power carry. */
// @ts-ignore: decorator
@inline
function write(fused: bool, h: usize, r: v128, i: v128, power: usize, cr: v128, ci: v128): void {
  if (fused) {
    const pr = v128.load(power), pi = v128.load(power, 16);
    v128.store(h, cmaddRe(pr, pi, cr, ci, r));
    v128.store(h, cmaddIm(pr, pi, cr, ci, i), 16);
  } else {
    v128.store(h, r);
    v128.store(h, i, 16);
  }
}
