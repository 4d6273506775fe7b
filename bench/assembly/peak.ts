// What 128-bit WASM can do at most on this machine: the ceiling that every figure of the benchmark is a share of.
// Compiled when the benchmark starts (peak.mjs), once with relaxed SIMD and once without.
//
// Independent accumulators, more than the latency of a multiply-add times the units that do them and few enough for V8's
// registers, so that nothing but arithmetic is counted: n accumulators do n * 4 * 2 flops a round. The sum is returned so
// that none is dropped. The factors are arguments, 0.75 and 0.25: V8 would build constants anew at every use.

/** Fused: c + a b. Else c a + b, whose accumulators converge to 1. */
export function peak12(rounds: i32, x: f32, z: f32): f32 {
  const a = f32x4.splat(x), b = f32x4.splat(z);
  let c0 = f32x4.splat(0.0), c1 = f32x4.splat(0.1), c2 = f32x4.splat(0.2), c3 = f32x4.splat(0.3);
  let c4 = f32x4.splat(0.4), c5 = f32x4.splat(0.5), c6 = f32x4.splat(0.6), c7 = f32x4.splat(0.7);
  let c8 = f32x4.splat(0.8), c9 = f32x4.splat(0.9), c10 = f32x4.splat(1.0), c11 = f32x4.splat(1.1);
  for (let i = 0; i < rounds; i++) {
    c0 = step(c0, a, b);
    c1 = step(c1, a, b);
    c2 = step(c2, a, b);
    c3 = step(c3, a, b);
    c4 = step(c4, a, b);
    c5 = step(c5, a, b);
    c6 = step(c6, a, b);
    c7 = step(c7, a, b);
    c8 = step(c8, a, b);
    c9 = step(c9, a, b);
    c10 = step(c10, a, b);
    c11 = step(c11, a, b);
  }
  c0 = f32x4.add(c0, c1);
  c0 = f32x4.add(c0, c2);
  c0 = f32x4.add(c0, c3);
  c0 = f32x4.add(c0, c4);
  c0 = f32x4.add(c0, c5);
  c0 = f32x4.add(c0, c6);
  c0 = f32x4.add(c0, c7);
  c0 = f32x4.add(c0, c8);
  c0 = f32x4.add(c0, c9);
  c0 = f32x4.add(c0, c10);
  c0 = f32x4.add(c0, c11);
  return f32x4.extract_lane(c0, 0);
}

/**
 * The same with its products off the chain, for machines where that is faster without fusing: c + a m, m from the first
 * 160 bytes of memory, so that each product has to be computed.
 */
export function peak10(rounds: i32, x: f32, z: f32): f32 {
  const a = f32x4.splat(x), b = f32x4.splat(z);
  let c0 = f32x4.splat(0.0), c1 = f32x4.splat(0.1), c2 = f32x4.splat(0.2), c3 = f32x4.splat(0.3);
  let c4 = f32x4.splat(0.4), c5 = f32x4.splat(0.5), c6 = f32x4.splat(0.6), c7 = f32x4.splat(0.7);
  let c8 = f32x4.splat(0.8), c9 = f32x4.splat(0.9);
  for (let i = 0; i < rounds; i++) {
    c0 = stepFromMemory(c0, a, b, 0);
    c1 = stepFromMemory(c1, a, b, 16);
    c2 = stepFromMemory(c2, a, b, 32);
    c3 = stepFromMemory(c3, a, b, 48);
    c4 = stepFromMemory(c4, a, b, 64);
    c5 = stepFromMemory(c5, a, b, 80);
    c6 = stepFromMemory(c6, a, b, 96);
    c7 = stepFromMemory(c7, a, b, 112);
    c8 = stepFromMemory(c8, a, b, 128);
    c9 = stepFromMemory(c9, a, b, 144);
  }
  c0 = f32x4.add(c0, c1);
  c0 = f32x4.add(c0, c2);
  c0 = f32x4.add(c0, c3);
  c0 = f32x4.add(c0, c4);
  c0 = f32x4.add(c0, c5);
  c0 = f32x4.add(c0, c6);
  c0 = f32x4.add(c0, c7);
  c0 = f32x4.add(c0, c8);
  c0 = f32x4.add(c0, c9);
  return f32x4.extract_lane(c0, 0);
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
function step(c: v128, a: v128, b: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(c, a), b);
}

// @ts-ignore: decorator
@inline
function stepFromMemory(c: v128, a: v128, b: v128, offset: usize): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(c, f32x4.mul(a, v128.load(offset)));
}
