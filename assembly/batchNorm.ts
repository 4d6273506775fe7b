// y = (x - mean) * factor + bias, column by column.
import { madd } from "./simd";

/**
 * y, x               [tokens, width] float32, contiguous, width a multiple of 4; may be the same memory
 * mean, factor, bias [width] float32; factor = scale / sqrt(variance + epsilon)
 */
export function batchNorm(
  y: usize, x: usize, mean: usize, factor: usize, bias: usize,
  tokens: i32, width: i32,
): void {
  const bytes = <usize>width << 2;
  for (let t = 0; t < tokens; t++) {
    for (let i: usize = 0; i < bytes; i += 16) {
      const d = f32x4.sub(v128.load(x + i), v128.load(mean + i));
      v128.store(y + i, madd(d, v128.load(factor + i), v128.load(bias + i)));
    }
    x += bytes;
    y += bytes;
  }
}
