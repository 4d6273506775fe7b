// y = x - log(sum(exp(x))) over each group of columns.
import { exp } from "./simd";

/**
 * y, x [tokens, width] float32, rows `stride` bytes apart; may be the same memory
 * Each run of `group` columns is normalised by itself; width is a multiple of group.
 */
export function logSoftmax(y: usize, x: usize, stride: usize, tokens: i32, width: i32, group: i32): void {
  for (let t = 0; t < tokens; t++) {
    for (let first = 0; first < width; first += group) {
      const from = x + (<usize>first << 2);
      let highest = load<f32>(from);
      for (let i = 1; i < group; i++) highest = max<f32>(highest, load<f32>(from + (<usize>i << 2)));
      let sum: f64 = 0;
      for (let i = 0; i < group; i++) {
        const e = exp(f32x4.splat(load<f32>(from + (<usize>i << 2)) - highest));
        sum += <f64>f32x4.extract_lane(e, 0);
      }
      const shift = <f64>highest + log(sum);
      const to = y + (<usize>first << 2);
      for (let i = 0; i < group; i++) {
        store<f32>(to + (<usize>i << 2), <f32>(<f64>load<f32>(from + (<usize>i << 2)) - shift));
      }
    }
    x += stride;
    y += stride;
  }
}

/** log(x) for normal x > 0, to about 1e-15: x = 2^e m, log m = 2 artanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)] */
function log(x: f64): f64 {
  const bits = reinterpret<u64>(x);
  let e = <i32>(bits >> 52) - 1023;
  let m = reinterpret<f64>((bits & 0x000fffffffffffff) | 0x3ff0000000000000);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    e++;
  }
  if (!(x < Infinity)) return x;
  const f = (m - 1) / (m + 1);
  const square = f * f;
  let series: f64 = 1.0 / 21.0;
  for (let k = 19; k >= 1; k -= 2) series = series * square + 1.0 / <f64>k;
  return 2.0 * f * series + <f64>e * 0.6931471805599453;
}
