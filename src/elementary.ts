/**
 * exp, sin and cos in float64, by additions, products and roundings alone, to a unit in the last place or so. Those of `Math` differ
 * there from one JavaScript engine to another (Node's from Chromium's, too), and lambda must be the same on every machine.
 */

/** ln 2, and pi / 2, as sums: products of all but the last part and a small integer are exact. */
const LN2_HIGH = 0.6931471803691238;
const LN2_LOW = 1.9082149292705877e-10;
const QUARTER_HIGH = 1.5707963267341256;
const QUARTER_MIDDLE = 6.077100506303966e-11;
const QUARTER_LOW = 2.0222662487959506e-21;

/** 2 pi 2^200 */
const TURN = 0x6487ed5110b4611a62633145c06e0e68948127044533e63a010n;

/** exp(x) = 2^n exp(r), |r| <= ln(2) / 2, by Taylor's sum; Infinity for x > 709, 0 for x < -745 */
export function exp(x: number): number {
  if (x > 709) return Number.POSITIVE_INFINITY;
  if (x < -745) return 0;
  const n = Math.round(x * Math.LOG2E);
  const r = x - n * LN2_HIGH - n * LN2_LOW;
  let p = 1 / 479001600 + r / 6227020800;
  p = 1 / 3628800 + r * (1 / 39916800 + r * p);
  p = 1 / 40320 + r * (1 / 362880 + r * p);
  p = 1 / 720 + r * (1 / 5040 + r * p);
  p = 1 / 24 + r * (1 / 120 + r * p);
  p = 1 / 2 + r * (1 / 6 + r * p);
  p = 1 + r * (1 + r * p);
  // By squares, as `**` may be off.
  for (let left = Math.abs(n), square = n < 0 ? 0.5 : 2; left > 0; left >>= 1, square *= square)
    if (left & 1) p *= square;
  return p;
}

/** x in radians, finite */
export const sin = (x: number) => wave(x, 0);

/** x in radians, finite */
export const cos = (x: number) => wave(x, 1);

/** sin(x + quarters pi / 2): by Taylor's sum, of what x is off by from the nearest quarter of a turn */
function wave(x: number, quarters: number): number {
  // Of a large x, which is an integer in units of 2^-33, whole turns are taken first.
  const angle = Math.abs(x) < 2 ** 20 ? x : Number((BigInt(x * 2 ** 33) << 167n) % TURN) / 2 ** 200;
  const n = Math.round(angle / QUARTER_HIGH);
  const r = angle - n * QUARTER_HIGH - n * QUARTER_MIDDLE - n * QUARTER_LOW;
  const m = -r * r;
  const quadrant = (n + quarters) & 3;
  let p: number;
  if (quadrant & 1) {
    p = 1 / 3628800 + m * (1 / 479001600 + m * (1 / 87178291200 + m / 20922789888000));
    p = 1 / 24 + m * (1 / 720 + m * (1 / 40320 + m * p));
    p = 1 + m * (1 / 2 + m * p);
  } else {
    p = 1 / 39916800 + m * (1 / 6227020800 + m * (1 / 1307674368000 + m / 355687428096000));
    p = 1 / 120 + m * (1 / 5040 + m * (1 / 362880 + m * p));
    p = r + r * m * (1 / 6 + m * p);
  }
  return quadrant & 2 ? -p : p;
}
