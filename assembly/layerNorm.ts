// y = (x - mean) / sqrt(var + epsilon) * scale + bias, row by row; or without the mean, var being mean(x^2): RMSNorm.
import { madd, sumLanes } from "./simd";

/**
 * y, x        [tokens, width] float32, rows `stride` bytes apart, padded to a multiple of 4; may be the same memory
 * scale, bias [width] float32, padded with zeros, so that the padding of y is 0
 */
export function layerNorm(
  y: usize, x: usize, stride: usize, scale: usize, bias: usize,
  epsilon: f32, centred: bool, tokens: i32, width: i32,
): void {
  const full = <usize>(width & ~3) << 2;
  const tail = width & 3;
  const mask = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(tail));
  const padded = full + (tail ? 16 : 0);
  const count = <f32>width;
  for (let t = 0; t < tokens; t++) {
    let mean = f32x4.splat(0);
    let i: usize = 0;
    if (centred) {
      let sum = f32x4.splat(0);
      for (; i < full; i += 16) sum = f32x4.add(sum, v128.load(x + i));
      if (tail) sum = f32x4.add(sum, v128.and(v128.load(x + i), mask));
      mean = f32x4.splat(sumLanes(sum) / count);
    }

    let squares = f32x4.splat(0);
    for (i = 0; i < full; i += 16) {
      const d = f32x4.sub(v128.load(x + i), mean);
      squares = madd(d, d, squares);
    }
    if (tail) {
      const d = v128.and(f32x4.sub(v128.load(x + i), mean), mask);
      squares = madd(d, d, squares);
    }
    const factor = f32x4.splat(<f32>1.0 / sqrt<f32>(sumLanes(squares) / count + epsilon));

    for (i = 0; i < padded; i += 16) {
      const d = f32x4.mul(f32x4.sub(v128.load(x + i), mean), factor);
      v128.store(y + i, madd(d, v128.load(scale + i), v128.load(bias + i)));
    }
    x += stride;
    y += stride;
  }
}
