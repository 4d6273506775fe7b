// How a product of multiply.ts and multiplyRow.ts ends: + v * u where the layer skips, and the store.
import { madd } from "./simd";

/** 8 columns of a row. */
// @ts-ignore: decorator
@inline
export function finish(skips: bool, y: usize, a: v128, b: v128, v: usize, u: usize): void {
  if (skips) {
    v128.store(y, madd(v128.load(v), v128.load(u), a));
    v128.store(y, madd(v128.load(v, 16), v128.load(u, 16), b), 16);
  } else {
    v128.store(y, a);
    v128.store(y, b, 16);
  }
}

/** 4 columns. */
// @ts-ignore: decorator
@inline
export function finishHalf(skips: bool, y: usize, a: v128, v: usize, u: usize): void {
  v128.store(y, skips ? madd(v128.load(v), v128.load(u), a) : a);
}
