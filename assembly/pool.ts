// sum[p] = sum[p-1] + x[p]: the running sum behind a mean over time.
// In float64 and in the two parts of the scan, with lambda = 1, so that any split of a sequence gives the same bits.
// With `isMax` every sum is a maximum, and -Infinity stands where a sum starts from 0.

/**
 * Each chunk's own sum.
 *
 * sums     [chunks touched, width] float64, written
 * x        [tokens, width] float32, contiguous, width a multiple of 4
 * stateLoc [width] float64: the first chunk's sum so far, read if k0 > 0
 */
export function poolLocal(
  sums: usize, x: usize, stateLoc: usize,
  tokens: i32, k0: i32, chunk: i32, width: i32, isMax: bool,
): void {
  const rowBytes = <usize>width << 2;
  const sumBytes = <usize>width << 3;
  let end = min(tokens, chunk - k0);
  let t = 0;
  if (k0 > 0) memory.copy(sums, stateLoc, sumBytes);
  else clear(sums, sumBytes, isMax);
  while (t < tokens) {
    for (; t < end; t++) {
      for (let i: usize = 0; i < rowBytes; i += 8) {
        const value = f64x2.promote_low_f32x4(v128.load64_zero(x + i));
        v128.store(sums + 2 * i, join(v128.load(sums + 2 * i), value, isMax));
      }
      x += rowBytes;
    }
    end = min(tokens, end + chunk);
    sums += sumBytes;
    if (t < tokens) clear(sums, sumBytes, isMax);
  }
}

/** a + b, or the larger: NaN where either is. */
// @ts-ignore: decorator
@inline
function join(a: v128, b: v128, isMax: bool): v128 {
  return isMax ? f64x2.max(a, b) : f64x2.add(a, b);
}

function clear(sums: usize, bytes: usize, isMax: bool): void {
  const empty = f64x2.splat(isMax ? -Infinity : 0.0);
  for (let i: usize = 0; i < bytes; i += 16) v128.store(sums + i, empty);
}

/**
 * carry    [width] float64, advanced in place past every chunk that ends here
 * stateLoc [width] float64, written: the last chunk's sum if it is unfinished, else that of no token
 * sums     [chunks touched, width] float64
 */
export function poolCarry(
  carry: usize, stateLoc: usize, sums: usize,
  tokens: i32, k0: i32, chunk: i32, width: i32, isMax: bool,
): void {
  const bytes = <usize>width << 3;
  let last = chunk - k0 - 1;
  for (; last < tokens; last += chunk) {
    for (let i: usize = 0; i < bytes; i += 16) {
      v128.store(carry + i, join(v128.load(carry + i), v128.load(sums + i), isMax));
    }
    sums += bytes;
  }
  if (last - chunk + 1 < tokens) memory.copy(stateLoc, sums, bytes);
  else clear(stateLoc, bytes, isMax);
}

/** y [width] float32 = (carry + stateLoc) / count, or the larger of the two, [width] float64 each */
export function poolResult(y: usize, carry: usize, stateLoc: usize, count: f64, width: i32, isMax: bool): void {
  for (let i: usize = 0; i < <usize>width; i++) {
    const a = load<f64>(carry + (i << 3)), b = load<f64>(stateLoc + (i << 3));
    store<f32>(y + (i << 2), <f32>(isMax ? max(a, b) : (a + b) / count));
  }
}

/**
 * poolLocal, poolCarry and poolResult of one token of each row.
 *
 * y, x            [rows, width] float32
 * sums            [width] float64: working memory
 * carry, stateLoc [width] float64 of the first row; the rows' state blocks are `stateStride` bytes apart
 * ks              [rows] int32: tokens of its chunk that each row has read
 * counts          [rows] float64: what each row's sum is divided by
 */
export function poolStep(
  y: usize, x: usize, sums: usize, carry: usize, stateLoc: usize, stateStride: usize, ks: usize, counts: usize,
  chunk: i32, rows: i32, width: i32, isMax: bool,
): void {
  const rowBytes = <usize>width << 2;
  for (let row = 0; row < rows; row++) {
    const k = load<i32>(ks + (<usize>row << 2));
    poolLocal(sums, x, stateLoc, 1, k, chunk, width, isMax);
    poolCarry(carry, stateLoc, sums, 1, k, chunk, width, isMax);
    poolResult(y, carry, stateLoc, load<f64>(counts + (<usize>row << 3)), width, isMax);
    y += rowBytes;
    x += rowBytes;
    carry += stateStride;
    stateLoc += stateStride;
  }
}
