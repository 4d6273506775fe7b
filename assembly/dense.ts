// y = x W + b.
import { multiply } from "./multiply";

/**
 * y    [tokens, outWidth] float32, rows `yStride` bytes apart
 * x    [tokens, inWidth] float32, rows `xStride` bytes apart
 * W    [outWidth / 8][inWidth, 8] float32 panels, the last one [inWidth, 4] if outWidth is no multiple of 8
 * b    [outWidth] float32, or 0: nothing is added
 * ones [outWidth] float32, each 1, read with b: b * 1 is added where `output` adds D * u, which rounds as adding b does
 * outWidth is a multiple of 4: pad with zeros.
 */
export function dense(
  y: usize, yStride: usize, x: usize, xStride: usize, W: usize, b: usize, ones: usize,
  tokens: i32, inWidth: i32, outWidth: i32,
): void {
  multiply(b != 0, y, yStride, x, xStride, W, b, ones, 0, tokens, inWidth, outWidth);
}
