// y = x W + b.
import { multiply } from "./multiply";

/**
 * y    [tokens, outWidth] float32, rows `yStride` bytes apart
 * x    [tokens, inWidth] float32, rows `xStride` bytes apart
 * W    [outWidth / 8][inWidth, 8] float32 panels, the last one [inWidth, 4] if outWidth is no multiple of 8
 * b    [outWidth] float32, or 0: nothing is added
 * outWidth is a multiple of 4: pad with zeros.
 */
export function dense(
  y: usize, yStride: usize, x: usize, xStride: usize, W: usize, b: usize,
  tokens: i32, inWidth: i32, outWidth: i32,
): void {
  multiply(false, y, yStride, x, xStride, W, 0, 0, 0, tokens, inWidth, outWidth);
  if (b == 0) return;
  const bytes = <usize>outWidth << 2;
  for (; tokens > 0; tokens--) {
    for (let at: usize = 0; at < bytes; at += 16) {
      v128.store(y + at, f32x4.add(v128.load(y + at), v128.load(b + at)));
    }
    y += yStride;
  }
}
