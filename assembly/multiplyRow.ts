// One row of the matrix product of multiply.ts: a step, and rows that are left after the last register tile.
import { finish } from "./finish";
import { madd } from "./simd";

/**
 * 32 columns: 8 accumulators, or the additions would wait for each other.
 *
 * Nothing is used twice but x, so a step costs what reading W from L2 does. k goes in eights, written out because
 * accumulators can be neither an array nor arguments that a function changes: each load then goes on by 256 bytes from one time
 * to the next, which seems to be as far ahead as the processor's prefetch has to fetch (figures: bench/limits.md). The ways out
 * in between are for all other widths, and keep the compiler from mixing the rounds (as in multiply.ts).
 */
// @ts-ignore: decorator
@inline
export function rowBy32(skips: bool, y: usize, x: usize, xBytes: usize, W: usize, v: usize, u: usize): void {
  const panelBytes = xBytes << 3;
  let w0 = W;
  let w1 = w0 + panelBytes;
  let w2 = w1 + panelBytes;
  let w3 = w2 + panelBytes;
  let a0 = f32x4.splat(0), b0 = f32x4.splat(0), a1 = f32x4.splat(0), b1 = f32x4.splat(0), a2 = f32x4.splat(0), b2 = f32x4.splat(0), a3 = f32x4.splat(0), b3 = f32x4.splat(0);
  const end = x + xBytes;
  for (; x < end; x += 32) {
    let s = v128.load32_splat(x);
    a0 = madd(s, v128.load(w0), a0);
    b0 = madd(s, v128.load(w0, 16), b0);
    a1 = madd(s, v128.load(w1), a1);
    b1 = madd(s, v128.load(w1, 16), b1);
    a2 = madd(s, v128.load(w2), a2);
    b2 = madd(s, v128.load(w2, 16), b2);
    a3 = madd(s, v128.load(w3), a3);
    b3 = madd(s, v128.load(w3, 16), b3);
    if (x + 4 == end) break;
    s = v128.load32_splat(x, 4);
    a0 = madd(s, v128.load(w0, 32), a0);
    b0 = madd(s, v128.load(w0, 48), b0);
    a1 = madd(s, v128.load(w1, 32), a1);
    b1 = madd(s, v128.load(w1, 48), b1);
    a2 = madd(s, v128.load(w2, 32), a2);
    b2 = madd(s, v128.load(w2, 48), b2);
    a3 = madd(s, v128.load(w3, 32), a3);
    b3 = madd(s, v128.load(w3, 48), b3);
    if (x + 8 == end) break;
    s = v128.load32_splat(x, 8);
    a0 = madd(s, v128.load(w0, 64), a0);
    b0 = madd(s, v128.load(w0, 80), b0);
    a1 = madd(s, v128.load(w1, 64), a1);
    b1 = madd(s, v128.load(w1, 80), b1);
    a2 = madd(s, v128.load(w2, 64), a2);
    b2 = madd(s, v128.load(w2, 80), b2);
    a3 = madd(s, v128.load(w3, 64), a3);
    b3 = madd(s, v128.load(w3, 80), b3);
    if (x + 12 == end) break;
    s = v128.load32_splat(x, 12);
    a0 = madd(s, v128.load(w0, 96), a0);
    b0 = madd(s, v128.load(w0, 112), b0);
    a1 = madd(s, v128.load(w1, 96), a1);
    b1 = madd(s, v128.load(w1, 112), b1);
    a2 = madd(s, v128.load(w2, 96), a2);
    b2 = madd(s, v128.load(w2, 112), b2);
    a3 = madd(s, v128.load(w3, 96), a3);
    b3 = madd(s, v128.load(w3, 112), b3);
    if (x + 16 == end) break;
    s = v128.load32_splat(x, 16);
    a0 = madd(s, v128.load(w0, 128), a0);
    b0 = madd(s, v128.load(w0, 144), b0);
    a1 = madd(s, v128.load(w1, 128), a1);
    b1 = madd(s, v128.load(w1, 144), b1);
    a2 = madd(s, v128.load(w2, 128), a2);
    b2 = madd(s, v128.load(w2, 144), b2);
    a3 = madd(s, v128.load(w3, 128), a3);
    b3 = madd(s, v128.load(w3, 144), b3);
    if (x + 20 == end) break;
    s = v128.load32_splat(x, 20);
    a0 = madd(s, v128.load(w0, 160), a0);
    b0 = madd(s, v128.load(w0, 176), b0);
    a1 = madd(s, v128.load(w1, 160), a1);
    b1 = madd(s, v128.load(w1, 176), b1);
    a2 = madd(s, v128.load(w2, 160), a2);
    b2 = madd(s, v128.load(w2, 176), b2);
    a3 = madd(s, v128.load(w3, 160), a3);
    b3 = madd(s, v128.load(w3, 176), b3);
    if (x + 24 == end) break;
    s = v128.load32_splat(x, 24);
    a0 = madd(s, v128.load(w0, 192), a0);
    b0 = madd(s, v128.load(w0, 208), b0);
    a1 = madd(s, v128.load(w1, 192), a1);
    b1 = madd(s, v128.load(w1, 208), b1);
    a2 = madd(s, v128.load(w2, 192), a2);
    b2 = madd(s, v128.load(w2, 208), b2);
    a3 = madd(s, v128.load(w3, 192), a3);
    b3 = madd(s, v128.load(w3, 208), b3);
    if (x + 28 == end) break;
    s = v128.load32_splat(x, 28);
    a0 = madd(s, v128.load(w0, 224), a0);
    b0 = madd(s, v128.load(w0, 240), b0);
    a1 = madd(s, v128.load(w1, 224), a1);
    b1 = madd(s, v128.load(w1, 240), b1);
    a2 = madd(s, v128.load(w2, 224), a2);
    b2 = madd(s, v128.load(w2, 240), b2);
    a3 = madd(s, v128.load(w3, 224), a3);
    b3 = madd(s, v128.load(w3, 240), b3);
    w0 += 256;
    w1 += 256;
    w2 += 256;
    w3 += 256;
  }
  finish(skips, y, a0, b0, v, u);
  finish(skips, y + 32, a1, b1, v + 32, u + 32);
  finish(skips, y + 64, a2, b2, v + 64, u + 64);
  finish(skips, y + 96, a3, b3, v + 96, u + 96);
}

/** 8 columns of one row: 2 accumulators. */
// @ts-ignore: decorator
@inline
export function rowBy8(skips: bool, y: usize, x: usize, xBytes: usize, W: usize, v: usize, u: usize): void {
  let w0 = W;
  let a0 = f32x4.splat(0), b0 = f32x4.splat(0);
  const end = x + xBytes;
  for (; x < end; x += 4) {
    const s = v128.load32_splat(x);
    a0 = madd(s, v128.load(w0), a0);
    b0 = madd(s, v128.load(w0, 16), b0);
    w0 += 32;
  }
  finish(skips, y, a0, b0, v, u);
}
