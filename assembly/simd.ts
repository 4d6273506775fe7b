// The arithmetic that every kernel shares. One definition each, so that all register tiles give the same bits.

/** c + a * b: fused where the module is built for relaxed SIMD, else rounded twice. One module never mixes the two. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(c, f32x4.mul(a, b));
}

/** c - a * b, likewise. */
// @ts-ignore: decorator
@inline
export function nmadd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_nmadd(a, b, c);
  return f32x4.sub(c, f32x4.mul(a, b));
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
  x = f32x4.min(f32x4.max(x, f32x4.splat(-87.0)), f32x4.splat(88.0));
  const n = f32x4.nearest(f32x4.mul(x, f32x4.splat(1.4426950408889634)));
  // ln 2 in two parts: n * 0.693359375 is exact for |n| < 2^15.
  let r = nmadd(n, f32x4.splat(0.693359375), x);
  r = nmadd(n, f32x4.splat(-2.1219444005469057e-4), r);
  let p = madd(r, f32x4.splat(<f32>(1.0 / 5040.0)), f32x4.splat(<f32>(1.0 / 720.0)));
  p = madd(p, r, f32x4.splat(<f32>(1.0 / 120.0)));
  p = madd(p, r, f32x4.splat(<f32>(1.0 / 24.0)));
  p = madd(p, r, f32x4.splat(<f32>(1.0 / 6.0)));
  p = madd(p, r, f32x4.splat(0.5));
  p = madd(p, r, f32x4.splat(1.0));
  p = madd(p, r, f32x4.splat(1.0));
  // 2^n by adding n to the exponent bits: p is in [0.7, 1.42] and n in [-126, 127].
  return i32x4.add(p, i32x4.shl(i32x4.trunc_sat_f32x4_s(n), 23));
}

/** 1 / (1 + exp(-x)) */
// @ts-ignore: decorator
@inline
export function sigmoid(x: v128): v128 {
  const one = f32x4.splat(1.0);
  return f32x4.div(one, f32x4.add(one, exp(f32x4.neg(x))));
}
