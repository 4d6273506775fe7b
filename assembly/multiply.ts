// The matrix product behind `dense` and `output`, in register tiles of 4 tokens x 8 outputs.
import { madd } from "./simd";

/** What follows the product: + D * u where the layer skips, else + b. */
// @ts-ignore: decorator
@inline
function finish(skips: bool, acc: v128, v: v128, u: usize): v128 {
  return skips ? madd(v, v128.load(u), acc) : f32x4.add(acc, v);
}

/** One accumulator for each output, k ascending: every register tile below sums in the same order. */
// @ts-ignore: decorator
@inline
export function multiply(
  skips: bool, y: usize, yStride: usize, x: usize, xStride: usize, W: usize, v: usize, u: usize, uStride: usize,
  tokens: i32, inWidth: i32, outWidth: i32,
): void {
  const xBytes = <usize>inWidth << 2;
  let column: usize = 0;
  const wide = <usize>(outWidth & ~7) << 2;
  for (; column < wide; column += 32) {
    const v0 = v128.load(v + column);
    const v1 = v128.load(v + column, 16);
    let t = 0;
    for (; t + 4 <= tokens; t += 4) {
      let x0 = x + <usize>t * xStride;
      let x1 = x0 + xStride;
      let x2 = x1 + xStride;
      let x3 = x2 + xStride;
      let a0 = f32x4.splat(0), a1 = f32x4.splat(0), a2 = f32x4.splat(0), a3 = f32x4.splat(0);
      let b0 = f32x4.splat(0), b1 = f32x4.splat(0), b2 = f32x4.splat(0), b3 = f32x4.splat(0);
      const end = x0 + xBytes;
      for (let w = W; x0 < end; w += 32) {
        const w0 = v128.load(w);
        const w1 = v128.load(w, 16);
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
        x0 += 4;
        x1 += 4;
        x2 += 4;
        x3 += 4;
      }
      const to = y + <usize>t * yStride + column;
      const from = u + <usize>t * uStride + column;
      v128.store(to, finish(skips, a0, v0, from));
      v128.store(to, finish(skips, b0, v1, from + 16), 16);
      v128.store(to + yStride, finish(skips, a1, v0, from + uStride));
      v128.store(to + yStride, finish(skips, b1, v1, from + uStride + 16), 16);
      v128.store(to + 2 * yStride, finish(skips, a2, v0, from + 2 * uStride));
      v128.store(to + 2 * yStride, finish(skips, b2, v1, from + 2 * uStride + 16), 16);
      v128.store(to + 3 * yStride, finish(skips, a3, v0, from + 3 * uStride));
      v128.store(to + 3 * yStride, finish(skips, b3, v1, from + 3 * uStride + 16), 16);
    }
    for (; t < tokens; t++) {
      let x0 = x + <usize>t * xStride;
      let a0 = f32x4.splat(0);
      let b0 = f32x4.splat(0);
      const end = x0 + xBytes;
      for (let w = W; x0 < end; w += 32) {
        const s = v128.load32_splat(x0);
        a0 = madd(s, v128.load(w), a0);
        b0 = madd(s, v128.load(w, 16), b0);
        x0 += 4;
      }
      const to = y + <usize>t * yStride + column;
      const from = u + <usize>t * uStride + column;
      v128.store(to, finish(skips, a0, v0, from));
      v128.store(to, finish(skips, b0, v1, from + 16), 16);
    }
    W += xBytes << 3;
  }
  if (outWidth & 4) {
    const v0 = v128.load(v + column);
    for (let t = 0; t < tokens; t++) {
      let x0 = x + <usize>t * xStride;
      let a0 = f32x4.splat(0);
      const end = x0 + xBytes;
      for (let w = W; x0 < end; w += 16) {
        a0 = madd(v128.load32_splat(x0), v128.load(w), a0);
        x0 += 4;
      }
      v128.store(y + <usize>t * yStride + column, finish(skips, a0, v0, u + <usize>t * uStride + column));
    }
  }
}
