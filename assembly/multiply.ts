// The matrix product behind `dense`, `output` and the projections, in register tiles of tokens x 8 outputs.
import { finish, finishHalf } from "./finish";
import { rowBy32, rowBy8 } from "./multiplyRow";
import { fuses, madd } from "./simd";

/**
 * y = x W, then + v * u where the layer skips. One accumulator for each output, k ascending: every register tile sums in
 * the same order. Arguments as in `dense` and `output`.
 *
 * 6 x 8 tiles fill the 15 vector registers that V8 gives out (12 accumulators, two weights, one input), and run at the
 * machine's peak. Without fused multiply-add each product takes a register too: then 4 x 8 is the largest that does not spill.
 *
 * What is not arithmetic is kept short: k goes in twos, and pointers go on from tile to tile, each by one addition that waits for
 * no other, so that no product waits for an address. The way out between the two is for odd widths, and keeps the compiler from
 * mixing both: that would take more registers than there are.
 */
export function multiply(
  skips: bool, y: usize, yStride: usize, x: usize, xStride: usize, W: usize, v: usize, u: usize, uStride: usize,
  tokens: i32, inWidth: i32, outWidth: i32,
): void {
  const xBytes = <usize>inWidth << 2;
  // A multiple of both tiles' rows.
  const block = max(12, <i32>(BLOCK_BYTES / xBytes) / 12 * 12);
  for (; tokens > 0; tokens -= block) {
    multiplyBlock(skips, y, yStride, x, xStride, xBytes, W, v, u, uStride, min(tokens, block), outWidth);
    y += <usize>block * yStride;
    x += <usize>block * xStride;
    u += <usize>block * uStride;
  }
}

/** Bytes of x that stay in a 1 MiB L2 cache, with room for y and W, while all panels of W pass by. */
const BLOCK_BYTES: usize = 196608;

// @ts-ignore: decorator
@inline
function multiplyBlock(
  skips: bool, y: usize, yStride: usize, x: usize, xStride: usize, xBytes: usize, W: usize, v: usize, u: usize, uStride: usize,
  tokens: i32, outWidth: i32,
): void {
  const panelBytes = xBytes << 3;
  const panels = <usize>outWidth >> 3;
  // Rows that fill tiles, panel by panel: a panel of W stays in L1 while they pass by.
  const sixes = fuses() ? <usize>(tokens / 6) * 6 : 0;
  const tiled = sixes + ((<usize>tokens - sixes) & ~3);
  for (let p: usize = 0; p < panels; p++) {
    const at = p << 5;
    const panel = W + p * panelBytes;
    if (fuses()) rows6(skips, y + at, yStride, x, xStride, xBytes, panel, v + at, u + at, uStride, sixes);
    rows4(
      skips, y + sixes * yStride + at, yStride, x + sixes * xStride, xStride, xBytes, panel, v + at, u + sixes * uStride + at, uStride,
      tiled - sixes,
    );
  }
  // The last few rows, and the one row of a step: four panels at a time, or the additions would wait for each other.
  for (let t = tiled; t < <usize>tokens; t++) {
    const to = y + t * yStride, row = x + t * xStride, skip = u + t * uStride;
    let p: usize = 0;
    for (; p + 4 <= panels; p += 4) rowBy32(skips, to + (p << 5), row, xBytes, W + p * panelBytes, v + (p << 5), skip + (p << 5));
    for (; p < panels; p++) rowBy8(skips, to + (p << 5), row, xBytes, W + p * panelBytes, v + (p << 5), skip + (p << 5));
  }
  if (outWidth & 4) {
    const at = panels << 5;
    const panel = W + panels * panelBytes;
    let t: usize = 0;
    for (; t + 8 <= <usize>tokens; t += 8) {
      half8(skips, y + t * yStride + at, yStride, x + t * xStride, xStride, xBytes, panel, v + at, u + t * uStride + at, uStride);
    }
    for (; t < <usize>tokens; t++) {
      half1(skips, y + t * yStride + at, x + t * xStride, xBytes, panel, v + at, u + t * uStride + at);
    }
  }
}

/** Columns [0, 8) of `tokens` rows, a multiple of 6, in tiles of 6: 12 accumulators. */
// @ts-ignore: decorator
@inline
function rows6(
  skips: bool, y: usize, yStride: usize, x: usize, xStride: usize, xBytes: usize, W: usize, v: usize, u: usize, uStride: usize,
  tokens: usize,
): void {
  let x0 = x;
  let x1 = x0 + xStride;
  let x2 = x1 + xStride;
  let x3 = x2 + xStride;
  let x4 = x3 + xStride;
  let x5 = x4 + xStride;
  const end = W + (xBytes << 3);
  const last = end - 32;
  // From where the loop leaves a row to the same row of the next tile.
  const onward: usize = 6 * xStride - (xBytes & ~7);
  for (; tokens > 0; tokens -= 6) {
    let a0 = f32x4.splat(0), a1 = f32x4.splat(0), a2 = f32x4.splat(0), a3 = f32x4.splat(0), a4 = f32x4.splat(0), a5 = f32x4.splat(0);
    let b0 = f32x4.splat(0), b1 = f32x4.splat(0), b2 = f32x4.splat(0), b3 = f32x4.splat(0), b4 = f32x4.splat(0), b5 = f32x4.splat(0);
    for (let w = W; w < end; w += 64) {
      let w0 = v128.load(w);
      let w1 = v128.load(w, 16);
      let s = v128.load32_splat(x0);
      a0 = madd(s, w0, a0);
      b0 = madd(s, w1, b0);
      s = v128.load32_splat(x1);
      a1 = madd(s, w0, a1);
      b1 = madd(s, w1, b1);
      s = v128.load32_splat(x2);
      a2 = madd(s, w0, a2);
      b2 = madd(s, w1, b2);
      s = v128.load32_splat(x3);
      a3 = madd(s, w0, a3);
      b3 = madd(s, w1, b3);
      s = v128.load32_splat(x4);
      a4 = madd(s, w0, a4);
      b4 = madd(s, w1, b4);
      s = v128.load32_splat(x5);
      a5 = madd(s, w0, a5);
      b5 = madd(s, w1, b5);
      if (w == last) break;
      w0 = v128.load(w, 32);
      w1 = v128.load(w, 48);
      s = v128.load32_splat(x0, 4);
      a0 = madd(s, w0, a0);
      b0 = madd(s, w1, b0);
      s = v128.load32_splat(x1, 4);
      a1 = madd(s, w0, a1);
      b1 = madd(s, w1, b1);
      s = v128.load32_splat(x2, 4);
      a2 = madd(s, w0, a2);
      b2 = madd(s, w1, b2);
      s = v128.load32_splat(x3, 4);
      a3 = madd(s, w0, a3);
      b3 = madd(s, w1, b3);
      s = v128.load32_splat(x4, 4);
      a4 = madd(s, w0, a4);
      b4 = madd(s, w1, b4);
      s = v128.load32_splat(x5, 4);
      a5 = madd(s, w0, a5);
      b5 = madd(s, w1, b5);
      x0 += 8;
      x1 += 8;
      x2 += 8;
      x3 += 8;
      x4 += 8;
      x5 += 8;
    }
    finish(skips, y, a0, b0, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a1, b1, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a2, b2, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a3, b3, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a4, b4, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a5, b5, v, u);
    y += yStride;
    u += uStride;
    x0 += onward;
    x1 += onward;
    x2 += onward;
    x3 += onward;
    x4 += onward;
    x5 += onward;
  }
}

/** Columns [0, 8) of `tokens` rows, a multiple of 4, in tiles of 4: 8 accumulators. */
// @ts-ignore: decorator
@inline
function rows4(
  skips: bool, y: usize, yStride: usize, x: usize, xStride: usize, xBytes: usize, W: usize, v: usize, u: usize, uStride: usize,
  tokens: usize,
): void {
  let x0 = x;
  let x1 = x0 + xStride;
  let x2 = x1 + xStride;
  let x3 = x2 + xStride;
  const end = W + (xBytes << 3);
  const last = end - 32;
  // From where the loop leaves a row to the same row of the next tile.
  const onward: usize = 4 * xStride - (xBytes & ~7);
  for (; tokens > 0; tokens -= 4) {
    let a0 = f32x4.splat(0), a1 = f32x4.splat(0), a2 = f32x4.splat(0), a3 = f32x4.splat(0);
    let b0 = f32x4.splat(0), b1 = f32x4.splat(0), b2 = f32x4.splat(0), b3 = f32x4.splat(0);
    for (let w = W; w < end; w += 64) {
      let w0 = v128.load(w);
      let w1 = v128.load(w, 16);
      let s = v128.load32_splat(x0);
      a0 = madd(s, w0, a0);
      b0 = madd(s, w1, b0);
      s = v128.load32_splat(x1);
      a1 = madd(s, w0, a1);
      b1 = madd(s, w1, b1);
      s = v128.load32_splat(x2);
      a2 = madd(s, w0, a2);
      b2 = madd(s, w1, b2);
      s = v128.load32_splat(x3);
      a3 = madd(s, w0, a3);
      b3 = madd(s, w1, b3);
      if (w == last) break;
      w0 = v128.load(w, 32);
      w1 = v128.load(w, 48);
      s = v128.load32_splat(x0, 4);
      a0 = madd(s, w0, a0);
      b0 = madd(s, w1, b0);
      s = v128.load32_splat(x1, 4);
      a1 = madd(s, w0, a1);
      b1 = madd(s, w1, b1);
      s = v128.load32_splat(x2, 4);
      a2 = madd(s, w0, a2);
      b2 = madd(s, w1, b2);
      s = v128.load32_splat(x3, 4);
      a3 = madd(s, w0, a3);
      b3 = madd(s, w1, b3);
      x0 += 8;
      x1 += 8;
      x2 += 8;
      x3 += 8;
    }
    finish(skips, y, a0, b0, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a1, b1, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a2, b2, v, u);
    y += yStride;
    u += uStride;
    finish(skips, y, a3, b3, v, u);
    y += yStride;
    u += uStride;
    x0 += onward;
    x1 += onward;
    x2 += onward;
    x3 += onward;
  }
}

/** The last 4 columns, where the width is no multiple of 8, of 8 rows. */
// @ts-ignore: decorator
@inline
function half8(
  skips: bool, y: usize, yStride: usize, x: usize, xStride: usize, xBytes: usize, W: usize, v: usize, u: usize, uStride: usize,
): void {
  let x0 = x;
  let x1 = x0 + xStride;
  let x2 = x1 + xStride;
  let x3 = x2 + xStride;
  let x4 = x3 + xStride;
  let x5 = x4 + xStride;
  let x6 = x5 + xStride;
  let x7 = x6 + xStride;
  let a0 = f32x4.splat(0), a1 = f32x4.splat(0), a2 = f32x4.splat(0), a3 = f32x4.splat(0), a4 = f32x4.splat(0), a5 = f32x4.splat(0), a6 = f32x4.splat(0), a7 = f32x4.splat(0);
  const end = x0 + xBytes;
  for (let w = W; x0 < end; w += 16) {
    const w0 = v128.load(w);
    a0 = madd(v128.load32_splat(x0), w0, a0);
    a1 = madd(v128.load32_splat(x1), w0, a1);
    a2 = madd(v128.load32_splat(x2), w0, a2);
    a3 = madd(v128.load32_splat(x3), w0, a3);
    a4 = madd(v128.load32_splat(x4), w0, a4);
    a5 = madd(v128.load32_splat(x5), w0, a5);
    a6 = madd(v128.load32_splat(x6), w0, a6);
    a7 = madd(v128.load32_splat(x7), w0, a7);
    x0 += 4;
    x1 += 4;
    x2 += 4;
    x3 += 4;
    x4 += 4;
    x5 += 4;
    x6 += 4;
    x7 += 4;
  }
  finishHalf(skips, y, a0, v, u);
  finishHalf(skips, y + yStride, a1, v, u + uStride);
  finishHalf(skips, y + 2 * yStride, a2, v, u + 2 * uStride);
  finishHalf(skips, y + 3 * yStride, a3, v, u + 3 * uStride);
  finishHalf(skips, y + 4 * yStride, a4, v, u + 4 * uStride);
  finishHalf(skips, y + 5 * yStride, a5, v, u + 5 * uStride);
  finishHalf(skips, y + 6 * yStride, a6, v, u + 6 * uStride);
  finishHalf(skips, y + 7 * yStride, a7, v, u + 7 * uStride);
}

/** The same of one row. */
// @ts-ignore: decorator
@inline
function half1(skips: bool, y: usize, x: usize, xBytes: usize, W: usize, v: usize, u: usize): void {
  let x0 = x;
  let a0 = f32x4.splat(0);
  const end = x0 + xBytes;
  for (let w = W; x0 < end; w += 16) {
    const w0 = v128.load(w);
    a0 = madd(v128.load32_splat(x0), w0, a0);
    x0 += 4;
  }
  finishHalf(skips, y, a0, v, u);
}
