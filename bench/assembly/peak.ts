// What 128-bit WASM can do at most on this machine: the ceiling that every figure of the benchmark is a share of.
// Compiled when the benchmark starts (peak.mjs), once with relaxed SIMD and once without.

/**
 * 12 independent chains acc = acc * a + b: more than the latency of a multiply-add times the units that do them, and
 * few enough for V8's registers. Nothing is loaded and nothing spills, so only the multiply-adds are counted.
 * Values converge to 1, far from denormals. Does 12 * 4 * 2 flops a round; the sum is returned so that none is dropped.
 */
export function peak(rounds: i32): f32 {
  const a = f32x4.splat(0.75);
  const b = f32x4.splat(0.25);
  let c0 = f32x4.splat(0.0), c1 = f32x4.splat(0.1), c2 = f32x4.splat(0.2), c3 = f32x4.splat(0.3);
  let c4 = f32x4.splat(0.4), c5 = f32x4.splat(0.5), c6 = f32x4.splat(0.6), c7 = f32x4.splat(0.7);
  let c8 = f32x4.splat(0.8), c9 = f32x4.splat(0.9), c10 = f32x4.splat(1.1), c11 = f32x4.splat(1.2);
  for (let i = 0; i < rounds; i++) {
    c0 = madd(c0, a, b);
    c1 = madd(c1, a, b);
    c2 = madd(c2, a, b);
    c3 = madd(c3, a, b);
    c4 = madd(c4, a, b);
    c5 = madd(c5, a, b);
    c6 = madd(c6, a, b);
    c7 = madd(c7, a, b);
    c8 = madd(c8, a, b);
    c9 = madd(c9, a, b);
    c10 = madd(c10, a, b);
    c11 = madd(c11, a, b);
  }
  c0 = f32x4.add(f32x4.add(c0, c1), f32x4.add(c2, c3));
  c4 = f32x4.add(f32x4.add(c4, c5), f32x4.add(c6, c7));
  c8 = f32x4.add(f32x4.add(c8, c9), f32x4.add(c10, c11));
  return f32x4.extract_lane(f32x4.add(f32x4.add(c0, c4), c8), 0);
}

/** Reads `bytes` (a multiple of 128) from `from`, as fast as loads go: what touching a layer's weights costs at least. */
export function read(from: usize, bytes: usize): i32 {
  let s0 = i32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
  for (const end = from + bytes; from < end; from += 128) {
    s0 = v128.or(s0, v128.or(v128.load(from), v128.load(from, 64)));
    s1 = v128.or(s1, v128.or(v128.load(from, 16), v128.load(from, 80)));
    s2 = v128.or(s2, v128.or(v128.load(from, 32), v128.load(from, 96)));
    s3 = v128.or(s3, v128.or(v128.load(from, 48), v128.load(from, 112)));
  }
  return i32x4.extract_lane(v128.or(v128.or(s0, s1), v128.or(s2, s3)), 0);
}

// @ts-ignore: decorator
@inline
function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}
