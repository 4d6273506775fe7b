// bu = u B_norm^T and, in the same registers, loc[k] = lambda loc[k-1] + bu[k] over each chunk from 0.
import { cmaddIm, cmaddRe, madd } from "./simd";

/**
 * loc      [tokens, groups, re x 4 | im x 4] float32, written
 * u        [tokens, dModel] float32, rows `uStride` bytes apart
 * B        [groups, dModel, re x 4 | im x 4] float32: B_norm in panels of four states
 * lambda   [groups, re x 4 | im x 4] float32
 * stateLoc [groups, re x 4 | im x 4] float32: loc before the first token, read if k0 > 0
 * k0       tokens of the first chunk that are already in stateLoc; every later chunk has `chunk` tokens
 */
export function projectScan(
  loc: usize, u: usize, uStride: usize, B: usize, lambda: usize, stateLoc: usize,
  tokens: i32, k0: i32, chunk: i32, dModel: i32, groups: i32,
): void {
  const locStride = <usize>groups << 5;
  for (let g = 0; g < groups; g++) {
    const panel = B + ((<usize>g * dModel) << 5);
    const lr = v128.load(lambda + (<usize>g << 5));
    const li = v128.load(lambda + (<usize>g << 5), 16);
    let sr = f32x4.splat(0);
    let si = f32x4.splat(0);
    if (k0 > 0) {
      sr = v128.load(stateLoc + (<usize>g << 5));
      si = v128.load(stateLoc + (<usize>g << 5), 16);
    }
    let end = min(tokens, chunk - k0);
    let t = 0;
    while (t < tokens) {
      for (; t + 4 <= end; t += 4) {
        let u0 = u + <usize>t * uStride;
        let u1 = u0 + uStride;
        let u2 = u1 + uStride;
        let u3 = u2 + uStride;
        let r0 = f32x4.splat(0), r1 = f32x4.splat(0), r2 = f32x4.splat(0), r3 = f32x4.splat(0);
        let i0 = f32x4.splat(0), i1 = f32x4.splat(0), i2 = f32x4.splat(0), i3 = f32x4.splat(0);
        const panelEnd = panel + (<usize>dModel << 5);
        for (let b = panel; b < panelEnd; b += 32) {
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
        const out = loc + <usize>t * locStride + (<usize>g << 5);
        r0 = cmaddRe(lr, li, sr, si, r0);
        i0 = cmaddIm(lr, li, sr, si, i0);
        v128.store(out, r0);
        v128.store(out, i0, 16);
        r1 = cmaddRe(lr, li, r0, i0, r1);
        i1 = cmaddIm(lr, li, r0, i0, i1);
        v128.store(out + locStride, r1);
        v128.store(out + locStride, i1, 16);
        r2 = cmaddRe(lr, li, r1, i1, r2);
        i2 = cmaddIm(lr, li, r1, i1, i2);
        v128.store(out + 2 * locStride, r2);
        v128.store(out + 2 * locStride, i2, 16);
        sr = cmaddRe(lr, li, r2, i2, r3);
        si = cmaddIm(lr, li, r2, i2, i3);
        v128.store(out + 3 * locStride, sr);
        v128.store(out + 3 * locStride, si, 16);
      }
      for (; t < end; t++) {
        const row = u + <usize>t * uStride;
        let r0 = f32x4.splat(0);
        let i0 = f32x4.splat(0);
        for (let k = 0; k < dModel; k++) {
          const x = v128.load32_splat(row + (<usize>k << 2));
          const b = panel + (<usize>k << 5);
          r0 = madd(x, v128.load(b), r0);
          i0 = madd(x, v128.load(b, 16), i0);
        }
        const out = loc + <usize>t * locStride + (<usize>g << 5);
        r0 = cmaddRe(lr, li, sr, si, r0);
        i0 = cmaddIm(lr, li, sr, si, i0);
        v128.store(out, r0);
        v128.store(out, i0, 16);
        sr = r0;
        si = i0;
      }
      sr = f32x4.splat(0);
      si = f32x4.splat(0);
      end = min(tokens, end + chunk);
    }
  }
}
