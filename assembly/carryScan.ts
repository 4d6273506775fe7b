// carry[c+1] = lambda^T carry[c] + loc[T-1] over the chunks of a row.

/**
 * carries  [chunks touched, groups, re x 4 | im x 4] float32, written: the carry into each chunk, rounded once
 * carry    [groups, re x 4 | im x 4] float64, advanced in place past every chunk that ends here
 * stateLoc [groups, re x 4 | im x 4] float32, written: loc of the last token if its chunk is unfinished, else 0
 * loc      [tokens, groups, re x 4 | im x 4] float32
 * lambdaT  [groups, re x 4 | im x 4] float64: lambda^chunk
 */
export function carryScan(
  carries: usize, carry: usize, stateLoc: usize, loc: usize, lambdaT: usize,
  tokens: i32, k0: i32, chunk: i32, groups: i32,
): void {
  const locStride = <usize>groups << 5;
  let last = chunk - k0 - 1;
  for (; last < tokens; last += chunk) {
    const row = loc + <usize>last * locStride;
    for (let g: usize = 0; g < <usize>groups; g++) {
      const c = carry + (g << 6);
      const out = carries + (g << 5);
      roundPair(out, c);
      advancePair(c, row + (g << 5), lambdaT + (g << 6));
      roundPair(out + 8, c + 16);
      advancePair(c + 16, row + (g << 5) + 8, lambdaT + (g << 6) + 16);
    }
    carries += locStride;
  }
  if (last - chunk + 1 < tokens) {
    // The last chunk is unfinished: its carry is needed for the output, and its loc is part of the state.
    for (let g: usize = 0; g < <usize>groups; g++) {
      roundPair(carries + (g << 5), carry + (g << 6));
      roundPair(carries + (g << 5) + 8, carry + (g << 6) + 16);
    }
    memory.copy(stateLoc, loc + <usize>(tokens - 1) * locStride, locStride);
  } else {
    memory.fill(stateLoc, 0, locStride);
  }
}

/** Rounds two states' carry, re at c and im 32 bytes on, to float32: re at out, im 16 bytes on. */
// @ts-ignore: decorator
@inline
function roundPair(out: usize, c: usize): void {
  v128.store64_lane(out, f32x4.demote_f64x2_zero(v128.load(c)), 0);
  v128.store64_lane(out, f32x4.demote_f64x2_zero(v128.load(c, 32)), 0, 16);
}

/** carry = lambdaT carry + loc for two states, in float64, each operation rounded. */
// @ts-ignore: decorator
@inline
function advancePair(c: usize, loc: usize, lambdaT: usize): void {
  const cr = v128.load(c);
  const ci = v128.load(c, 32);
  const pr = v128.load(lambdaT);
  const pi = v128.load(lambdaT, 32);
  const re = f64x2.sub(f64x2.mul(pr, cr), f64x2.mul(pi, ci));
  const im = f64x2.add(f64x2.mul(pr, ci), f64x2.mul(pi, cr));
  v128.store(c, f64x2.add(re, f64x2.promote_low_f32x4(v128.load64_zero(loc))));
  v128.store(c, f64x2.add(im, f64x2.promote_low_f32x4(v128.load64_zero(loc, 16))), 32);
}
