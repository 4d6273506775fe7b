// One token of each row: loc = lambda loc + bu, h = loc + lambda^(k+1) carry; the carry advances where a chunk ends.
import { advanceCarry, roundCarry } from "./carry";
import { partIm, partRe } from "./simd";

/**
 * What projectScan, carryScan and addCarry do to a chunk's tokens, done to one token of many rows: the same operations, so
 * the same bits.
 *
 * h        [rows, groups, re x 4 | im x 4] float32: bu on entry, h on return
 * rounded  [re x 4 | im x 4] float32: working memory
 * carry    [groups, re x 4 | im x 4] float64 of the first row; the rows' state blocks are `stateStride` bytes apart
 * stateLoc [groups, re x 4 | im x 4] float32 of the first row, likewise
 * ks       [rows] int32: tokens of its chunk that each row has read
 * lambdaT, powers as in projectHidden, real as in carryScan
 */
export function stepScan(
  h: usize, rounded: usize, carry: usize, stateLoc: usize, stateStride: usize, ks: usize,
  lambdaT: usize, powers: usize, chunk: i32, rows: i32, groups: i32, real: bool,
): void {
  const stride = <usize>groups << 5;
  for (let row = 0; row < rows; row++) {
    const k = load<i32>(ks + (<usize>row << 2));
    const power = powers + <usize>k * stride;
    const ends = k + 1 == chunk;
    for (let at: usize = 0; at < stride; at += 32) {
      const lr = v128.load(powers + at), li = v128.load(powers + at, 16);
      const sr = v128.load(stateLoc + at), si = v128.load(stateLoc + at, 16);
      const r = partRe(real, lr, li, sr, si, v128.load(h + at));
      const i = partIm(real, lr, li, sr, si, v128.load(h + at, 16));
      roundCarry(rounded, carry + 2 * at);
      const pr = v128.load(power + at), pi = v128.load(power + at, 16);
      const cr = v128.load(rounded), ci = v128.load(rounded, 16);
      v128.store(h + at, partRe(real, pr, pi, cr, ci, r));
      v128.store(h + at, partIm(real, pr, pi, cr, ci, i), 16);
      v128.store(stateLoc + at, r);
      v128.store(stateLoc + at, i, 16);
      if (ends) {
        advanceCarry(carry + 2 * at, stateLoc + at, lambdaT + 2 * at, real);
        v128.store(stateLoc + at, f32x4.splat(0));
        v128.store(stateLoc + at, f32x4.splat(0), 16);
      }
    }
    h += stride;
    carry += stateStride;
    stateLoc += stateStride;
  }
}
