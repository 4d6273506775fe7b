// y = Re(C h) + D * u.
import { multiply } from "./multiply";

/**
 * y    [tokens, outWidth] float32, rows `yStride` bytes apart
 * h    [tokens, hWidth] float32, hWidth = 8 groups of [re x 4 | im x 4]
 * C    [outWidth / 8][hWidth, 8] float32 panels of [C_re | -C_im], rows in the order of h
 * D    [outWidth] float32
 * u    [tokens, outWidth] float32, rows `uStride` bytes apart
 */
export function output(
  y: usize, yStride: usize, h: usize, C: usize, D: usize, u: usize, uStride: usize,
  tokens: i32, hWidth: i32, outWidth: i32,
): void {
  multiply(true, y, yStride, h, <usize>hWidth << 2, C, D, u, uStride, tokens, hWidth, outWidth);
}
