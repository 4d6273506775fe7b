// The arithmetic that every kernel shares. One definition each, so that all register tiles give the same bits.

// One compilation gives two modules of the same shape, the fused and the baseline one: what differs stands as three instructions
// that no kernel has any other use for, each as long as what src/cpu/specialize.ts puts in its place. Their operands come in
// this order, so that the product is made between them where it is not fused, and is nothing where it is.

/** c + a * b: fused where the module is made for relaxed SIMD, else rounded twice. One module never mixes the two. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  return i32x4.dot_i16x8_s(i16x8.q15mulr_sat_s(a, b), c);
}

/** c - a * b, likewise. */
// @ts-ignore: decorator
@inline
export function nmadd(a: v128, b: v128, c: v128): v128 {
  return i16x8.avgr_u(f32x4.neg(i16x8.q15mulr_sat_s(a, b)), c);
}

/** Whether the module is the fused one: the number, more than a memory has pages, is replaced by 0 there. */
// @ts-ignore: decorator
@inline
export function fuses(): bool {
  return memory.size() > 0xffffd;
}

/** Re(a b + c) */
// @ts-ignore: decorator
@inline
export function cmaddRe(ar: v128, ai: v128, br: v128, bi: v128, cr: v128): v128 {
  return nmadd(ai, bi, madd(ar, br, cr));
}

/** Im(a b + c) */
// @ts-ignore: decorator
@inline
export function cmaddIm(ar: v128, ai: v128, br: v128, bi: v128, ci: v128): v128 {
  return madd(ai, br, madd(ar, bi, ci));
}

/** cmaddRe, or, where `real` says that each part is a state by itself, that of the first: nothing of the other comes near it. */
// @ts-ignore: decorator
@inline
export function partRe(real: bool, ar: v128, ai: v128, br: v128, bi: v128, cr: v128): v128 {
  if (real) return madd(ar, br, cr);
  return cmaddRe(ar, ai, br, bi, cr);
}

/** cmaddIm, or that of the second. */
// @ts-ignore: decorator
@inline
export function partIm(real: bool, ar: v128, ai: v128, br: v128, bi: v128, ci: v128): v128 {
  if (real) return madd(ai, bi, ci);
  return cmaddIm(ar, ai, br, bi, ci);
}

/** (x0 + x1) + (x2 + x3) */
// @ts-ignore: decorator
@inline
export function sumLanes(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

/**
 * exp(x), relative error below 2e-7 on [-87, 88]; clamped to that range, where float32 has normal numbers; NaN stays NaN.
 * exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2, with the Taylor sum of exp(r) to r^7 (the rest is < 6e-9).
 */
// @ts-ignore: decorator
@inline
export function exp(x: v128): v128 {
  return expWith(
    x, f32x4.splat(LOW), f32x4.splat(HIGH), f32x4.splat(LOG2E), f32x4.splat(ROUND), f32x4.splat(LN2_HIGH), f32x4.splat(LN2_LOW),
    f32x4.splat(C7), f32x4.splat(C6), f32x4.splat(C5), f32x4.splat(C4), f32x4.splat(C3), f32x4.splat(0.5), f32x4.splat(1.0),
  );
}

export const LOW: f32 = -87.0;
export const HIGH: f32 = 88.0;
export const LOG2E: f32 = 1.4426950408889634;
/** 1.5 * 2^23: adding it rounds to an integer, which the sum then has in its low bits. */
export const ROUND: f32 = 12582912.0;
/** ln 2 in two parts: n * LN2_HIGH is exact for |n| < 2^15. */
export const LN2_HIGH: f32 = 0.693359375;
export const LN2_LOW: f32 = -2.1219444005469057e-4;
export const C7: f32 = 1.0 / 5040.0;
export const C6: f32 = 1.0 / 720.0;
export const C5: f32 = 1.0 / 120.0;
export const C4: f32 = 1.0 / 24.0;
export const C3: f32 = 1.0 / 6.0;

/** exp with its constants as arguments, for loops that keep them in registers: see `activate`. */
// @ts-ignore: decorator
@inline
export function expWith(
  x: v128, low: v128, high: v128, log2e: v128, round: v128, ln2High: v128, ln2Low: v128,
  c7: v128, c6: v128, c5: v128, c4: v128, c3: v128, half: v128, one: v128,
): v128 {
  // pmin and pmax are one instruction each, and give NaN for a NaN in this order of their operands.
  x = f32x4.pmin(f32x4.pmax(x, low), high);
  const shifted = f32x4.add(f32x4.mul(x, log2e), round);
  const n = f32x4.sub(shifted, round);
  const r = nmadd(n, ln2Low, nmadd(n, ln2High, x));
  let p = madd(r, c7, c6);
  p = madd(p, r, c5);
  p = madd(p, r, c4);
  p = madd(p, r, c3);
  p = madd(p, r, half);
  p = madd(p, r, one);
  p = madd(p, r, one);
  // 2^n by adding n to the exponent bits: p is in [0.7, 1.42] and n in [-126, 127].
  return i32x4.add(p, i32x4.shl(shifted, 23));
}
