// The projection and the scan of one chunk after the other, in register tiles of tokens x four states: what
// `projectScan` and `projectHidden` share.
import { cmaddIm, cmaddRe, fuses, madd } from "./simd";

/**
 * bu and loc of the `tokens` tokens of (a part of) one chunk and four states, all arguments at these states.
 * `state` holds loc before the first token and is left with loc of the last. Written to `out` is loc, or, if `fused`,
 * h = loc + power carry: `power` is at the first token's power of lambda, in rows of `stride` like `out`.
 *
 * The tiles are those of `multiply`, for its reasons. The scan's state goes from tile to tile through memory: in a
 * register it would have the loop over dModel spill.
 */
export function scanChunk(
  fused: bool, out: usize, stride: usize, u: usize, uStride: usize, uBytes: usize, B: usize, lambda: usize, state: usize,
  power: usize, carry: usize, tokens: i32,
): void {
  if (fuses()) {
    for (; tokens >= 6; tokens -= 6) {
      rows6(fused, out, stride, u, uStride, uBytes, B, lambda, state, power, carry);
      out += 6 * stride;
      power += 6 * stride;
      u += 6 * uStride;
    }
  }
  for (; tokens >= 4; tokens -= 4) {
    rows4(fused, out, stride, u, uStride, uBytes, B, lambda, state, power, carry);
    out += 4 * stride;
    power += 4 * stride;
    u += 4 * uStride;
  }
  for (; tokens > 0; tokens--) {
    rows1(fused, out, stride, u, uStride, uBytes, B, lambda, state, power, carry);
    out += stride;
    power += stride;
    u += uStride;
  }
}

/** Stores loc, or h = loc + power carry. */
// @ts-ignore: decorator
@inline
function write(fused: bool, out: usize, r: v128, i: v128, power: usize, cr: v128, ci: v128): void {
  if (fused) {
    const pr = v128.load(power), pi = v128.load(power, 16);
    v128.store(out, cmaddRe(pr, pi, cr, ci, r));
    v128.store(out, cmaddIm(pr, pi, cr, ci, i), 16);
  } else {
    v128.store(out, r);
    v128.store(out, i, 16);
  }
}

/** bu of 6 rows and four states, then the scan through them, on from `state`. */
// @ts-ignore: decorator
@inline
function rows6(
  fused: bool, out: usize, stride: usize, u: usize, uStride: usize, uBytes: usize, B: usize, lambda: usize, state: usize,
  power: usize, carry: usize,
): void {
  let u0 = u;
  let u1 = u0 + uStride;
  let u2 = u1 + uStride;
  let u3 = u2 + uStride;
  let u4 = u3 + uStride;
  let u5 = u4 + uStride;
  let r0 = f32x4.splat(0), r1 = f32x4.splat(0), r2 = f32x4.splat(0), r3 = f32x4.splat(0), r4 = f32x4.splat(0), r5 = f32x4.splat(0);
  let i0 = f32x4.splat(0), i1 = f32x4.splat(0), i2 = f32x4.splat(0), i3 = f32x4.splat(0), i4 = f32x4.splat(0), i5 = f32x4.splat(0);
  const end = u0 + uBytes;
  for (let b = B; u0 < end; b += 32) {
    const br = v128.load(b);
    const bi = v128.load(b, 16);
    let x = v128.load32_splat(u0);
    r0 = madd(x, br, r0);
    i0 = madd(x, bi, i0);
    x = v128.load32_splat(u1);
    r1 = madd(x, br, r1);
    i1 = madd(x, bi, i1);
    x = v128.load32_splat(u2);
    r2 = madd(x, br, r2);
    i2 = madd(x, bi, i2);
    x = v128.load32_splat(u3);
    r3 = madd(x, br, r3);
    i3 = madd(x, bi, i3);
    x = v128.load32_splat(u4);
    r4 = madd(x, br, r4);
    i4 = madd(x, bi, i4);
    x = v128.load32_splat(u5);
    r5 = madd(x, br, r5);
    i5 = madd(x, bi, i5);
    u0 += 4;
    u1 += 4;
    u2 += 4;
    u3 += 4;
    u4 += 4;
    u5 += 4;
  }
  const lr = v128.load(lambda);
  const li = v128.load(lambda, 16);
  const cr = fused ? v128.load(carry) : f32x4.splat(0);
  const ci = fused ? v128.load(carry, 16) : f32x4.splat(0);
  const sr = v128.load(state);
  const si = v128.load(state, 16);
  r0 = cmaddRe(lr, li, sr, si, r0);
  i0 = cmaddIm(lr, li, sr, si, i0);
  write(fused, out, r0, i0, power, cr, ci);
  out += stride;
  power += stride;
  r1 = cmaddRe(lr, li, r0, i0, r1);
  i1 = cmaddIm(lr, li, r0, i0, i1);
  write(fused, out, r1, i1, power, cr, ci);
  out += stride;
  power += stride;
  r2 = cmaddRe(lr, li, r1, i1, r2);
  i2 = cmaddIm(lr, li, r1, i1, i2);
  write(fused, out, r2, i2, power, cr, ci);
  out += stride;
  power += stride;
  r3 = cmaddRe(lr, li, r2, i2, r3);
  i3 = cmaddIm(lr, li, r2, i2, i3);
  write(fused, out, r3, i3, power, cr, ci);
  out += stride;
  power += stride;
  r4 = cmaddRe(lr, li, r3, i3, r4);
  i4 = cmaddIm(lr, li, r3, i3, i4);
  write(fused, out, r4, i4, power, cr, ci);
  out += stride;
  power += stride;
  r5 = cmaddRe(lr, li, r4, i4, r5);
  i5 = cmaddIm(lr, li, r4, i4, i5);
  write(fused, out, r5, i5, power, cr, ci);
  v128.store(state, r5);
  v128.store(state, i5, 16);
}

/** bu of 4 rows and four states, then the scan through them, on from `state`. */
// @ts-ignore: decorator
@inline
function rows4(
  fused: bool, out: usize, stride: usize, u: usize, uStride: usize, uBytes: usize, B: usize, lambda: usize, state: usize,
  power: usize, carry: usize,
): void {
  let u0 = u;
  let u1 = u0 + uStride;
  let u2 = u1 + uStride;
  let u3 = u2 + uStride;
  let r0 = f32x4.splat(0), r1 = f32x4.splat(0), r2 = f32x4.splat(0), r3 = f32x4.splat(0);
  let i0 = f32x4.splat(0), i1 = f32x4.splat(0), i2 = f32x4.splat(0), i3 = f32x4.splat(0);
  const end = u0 + uBytes;
  for (let b = B; u0 < end; b += 32) {
    const br = v128.load(b);
    const bi = v128.load(b, 16);
    let x = v128.load32_splat(u0);
    r0 = madd(x, br, r0);
    i0 = madd(x, bi, i0);
    x = v128.load32_splat(u1);
    r1 = madd(x, br, r1);
    i1 = madd(x, bi, i1);
    x = v128.load32_splat(u2);
    r2 = madd(x, br, r2);
    i2 = madd(x, bi, i2);
    x = v128.load32_splat(u3);
    r3 = madd(x, br, r3);
    i3 = madd(x, bi, i3);
    u0 += 4;
    u1 += 4;
    u2 += 4;
    u3 += 4;
  }
  const lr = v128.load(lambda);
  const li = v128.load(lambda, 16);
  const cr = fused ? v128.load(carry) : f32x4.splat(0);
  const ci = fused ? v128.load(carry, 16) : f32x4.splat(0);
  const sr = v128.load(state);
  const si = v128.load(state, 16);
  r0 = cmaddRe(lr, li, sr, si, r0);
  i0 = cmaddIm(lr, li, sr, si, i0);
  write(fused, out, r0, i0, power, cr, ci);
  out += stride;
  power += stride;
  r1 = cmaddRe(lr, li, r0, i0, r1);
  i1 = cmaddIm(lr, li, r0, i0, i1);
  write(fused, out, r1, i1, power, cr, ci);
  out += stride;
  power += stride;
  r2 = cmaddRe(lr, li, r1, i1, r2);
  i2 = cmaddIm(lr, li, r1, i1, i2);
  write(fused, out, r2, i2, power, cr, ci);
  out += stride;
  power += stride;
  r3 = cmaddRe(lr, li, r2, i2, r3);
  i3 = cmaddIm(lr, li, r2, i2, i3);
  write(fused, out, r3, i3, power, cr, ci);
  v128.store(state, r3);
  v128.store(state, i3, 16);
}

/** bu of one row and four states, then the scan through them, on from `state`. */
// @ts-ignore: decorator
@inline
function rows1(
  fused: bool, out: usize, stride: usize, u: usize, uStride: usize, uBytes: usize, B: usize, lambda: usize, state: usize,
  power: usize, carry: usize,
): void {
  let u0 = u;
  let r0 = f32x4.splat(0);
  let i0 = f32x4.splat(0);
  const end = u0 + uBytes;
  for (let b = B; u0 < end; b += 32) {
    const br = v128.load(b);
    const bi = v128.load(b, 16);
    let x = v128.load32_splat(u0);
    r0 = madd(x, br, r0);
    i0 = madd(x, bi, i0);
    u0 += 4;
  }
  const lr = v128.load(lambda);
  const li = v128.load(lambda, 16);
  const cr = fused ? v128.load(carry) : f32x4.splat(0);
  const ci = fused ? v128.load(carry, 16) : f32x4.splat(0);
  const sr = v128.load(state);
  const si = v128.load(state, 16);
  r0 = cmaddRe(lr, li, sr, si, r0);
  i0 = cmaddIm(lr, li, sr, si, i0);
  write(fused, out, r0, i0, power, cr, ci);
  v128.store(state, r0);
  v128.store(state, i0, 16);
}
