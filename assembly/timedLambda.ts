// lambda^dt = exp(-dt nu) (cos dt theta + i sin dt theta), in float64: what `timedScan` multiplies by.

/**
 * Relative error below 2^-50 while dt theta stays below 2^20 turns. Tokens may be any time apart, so there is no table
 * of these: they are derived where they are used, but in float64, and each dt once for a run of tokens that share it.
 *
 * out   [groups, re x 4 | im x 4] float64, written
 * rates [groups, nu x 4 | high x 4 | low x 4] float64: theta in turns is high + low, high of at most 24 bits
 */
export function timedLambda(out: usize, rates: usize, dt: f64, groups: i32): void {
  // V8 makes a vector constant anew wherever it is used; made from a value they are values (see `activate`).
  const one = f64x2.splat(<f64>min(groups, 1));
  const dts = f64x2.splat(dt);
  const low = c(-708, one), log2e = c(1.4426950408889634, one), magic = c(6755399441055744, one);
  const ln2High = c(-0.6931471803691238, one), ln2Low = c(-1.9082149292705877e-10, one);
  const half = c(0.5, one), two = c(2, one), four = c(4, one), quarter = c(-0.25, one), turn = c(6.283185307179586, one);
  const e3 = c(1.0 / 6, one), e4 = c(1.0 / 24, one), e5 = c(1.0 / 120, one), e6 = c(1.0 / 720, one), e7 = c(1.0 / 5040, one);
  const e8 = c(1.0 / 40320, one), e9 = c(1.0 / 362880, one), e10 = c(1.0 / 3628800, one), e11 = c(1.0 / 39916800, one);
  const e12 = c(1.0 / 479001600, one), e13 = c(1.0 / 6227020800, one), e14 = c(1.0 / 87178291200, one);
  const e15 = c(1.0 / 1307674368000, one), e16 = c(1.0 / 20922789888000, one);
  const end = rates + <usize>groups * 96;
  for (; rates < end; rates += 96, out += 64) {
    for (let at: usize = 0; at < 32; at += 16) {
      // exp(x) = 2^n exp(r), |r| <= ln(2) / 2, by Taylor's sum. Below exp(-708) are no normal numbers.
      const x = f64x2.pmax(f64x2.neg(f64x2.mul(dts, v128.load(rates + at))), low);
      const shifted = f64x2.add(f64x2.mul(x, log2e), magic);
      const n = f64x2.sub(shifted, magic);
      const r = ma(n, ln2Low, ma(n, ln2High, x));
      let p = ma(r, e13, e12);
      p = ma(p, r, e11);
      p = ma(p, r, e10);
      p = ma(p, r, e9);
      p = ma(p, r, e8);
      p = ma(p, r, e7);
      p = ma(p, r, e6);
      p = ma(p, r, e5);
      p = ma(p, r, e4);
      p = ma(p, r, e3);
      p = ma(p, r, half);
      p = ma(p, r, one);
      p = ma(p, r, one);
      const radius = i64x2.add(p, i64x2.shl(shifted, 52));

      // The turns: dt high is exact, so that whole turns go without a trace; then the nearest quarter.
      const high = f64x2.mul(dts, v128.load(rates + at, 32));
      let s = f64x2.add(f64x2.sub(high, f64x2.nearest(high)), f64x2.mul(dts, v128.load(rates + at, 64)));
      s = f64x2.sub(s, f64x2.nearest(s));
      const q = f64x2.nearest(f64x2.mul(s, four));
      const a = f64x2.mul(ma(q, quarter, s), turn);
      const a2 = f64x2.mul(a, a);
      const m = f64x2.neg(a2); // terms of alternating sign: powers of -a^2
      let sine = ma(m, e15, e13);
      sine = ma(sine, m, e11);
      sine = ma(sine, m, e9);
      sine = ma(sine, m, e7);
      sine = ma(sine, m, e5);
      sine = ma(sine, m, e3);
      sine = ma(f64x2.mul(sine, m), a, a);
      let cosine = ma(m, e16, e14);
      cosine = ma(cosine, m, e12);
      cosine = ma(cosine, m, e10);
      cosine = ma(cosine, m, e8);
      cosine = ma(cosine, m, e6);
      cosine = ma(cosine, m, e4);
      cosine = ma(cosine, m, half);
      cosine = ma(cosine, m, one);
      // q quarter turns, q from -2 to 2: by i to the q, as products with 0 and +-1.
      const odd = f64x2.mul(q, f64x2.sub(two, f64x2.abs(q)));
      const even = f64x2.sub(one, f64x2.abs(q));
      const re = f64x2.sub(f64x2.mul(even, cosine), f64x2.mul(odd, sine));
      const im = f64x2.add(f64x2.mul(even, sine), f64x2.mul(odd, cosine));
      v128.store(out + at, f64x2.mul(radius, re));
      v128.store(out + at, f64x2.mul(radius, im), 32);
    }
  }
}

/** a b + c, each rounded, in every build: the same lambda on every machine. */
// @ts-ignore: decorator
@inline
function ma(a: v128, b: v128, c: v128): v128 {
  return f64x2.add(f64x2.mul(a, b), c);
}

/** A vector of a value, from a 1 that no compiler can see. */
// @ts-ignore: decorator
@inline
function c(value: f64, one: v128): v128 {
  return f64x2.mul(one, f64x2.splat(value));
}
