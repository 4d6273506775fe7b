/** The scan over real states, which are parts of complex ones. */
import type { Bench } from "../bench.js";
import { floats } from "../problems.js";
import { type Checks, doubles, near, same, U } from "./compare.js";

export const realScanChecks: Checks = {
  "realScan, carryScan, addCarry, stepScan, timedScan: states that are parts of one": realScans,
};

/** All by one recurrence in float64, in chunks of 5 tokens from inside one. */
function realScans(bench: Bench): void {
  check(bench, () => {});
  // In one of the two that share a complex number, in either place: it stays out of the other.
  check(bench, (bu, size) => {
    bu[3 * size + 1] = Number.POSITIVE_INFINITY;
    bu[4 * size + 14] = Number.NEGATIVE_INFINITY;
  });
}

function check(bench: Bench, disturb: (bu: Float32Array, size: number) => void): void {
  const [chunk, groups, tokens] = [5, 2, 13];
  const size = 8 * groups;
  const nu = Array.from({ length: size }, (_, i) => 0.01 + i / 20);
  const power = (k: number, i: number) => Math.exp(-k * (nu[i] as number));
  const table = (rows: number, first: number) =>
    Float64Array.from({ length: rows * size }, (_, at) => power(first + Math.floor(at / size), at % size));
  const [bu, carry0, loc0] = [floats(tokens * size, 1), doubles(size, 2), floats(size, 3)];
  disturb(bu, size);
  for (const k0 of [0, 2]) {
    const expected = new Float64Array(bu.length);
    const h = carry0.map((value, i) => power(k0, i) * value + (k0 > 0 ? (loc0[i] as number) : 0));
    for (let at = 0; at < bu.length; at++) {
      h[at % size] = power(1, at % size) * (h[at % size] as number) + (bu[at] as number);
      expected[at] = h[at % size] as number;
    }
    const near13 = (found: Float32Array, what: string) =>
      near(Float64Array.from(found), expected, () => 32 * U, `${what}, k0 ${k0}`);
    const [lambda, lambdaT] = [bench.place(Float32Array.from(table(1, 1))), bench.place(table(1, chunk))];
    const powers = bench.place(Float32Array.from(table(chunk, 1)));
    const zeros = bench.place(new Float32Array(size));
    const states = () => [bench.place(carry0), bench.place(k0 > 0 ? loc0 : new Float32Array(size))] as const;
    const rows = Math.ceil((k0 + tokens) / chunk);
    const [loc, carries, [carry, stateLoc]] = [bench.place(bu), bench.room(4 * size * rows), states()];
    const own = { at: loc, bytes: 4 * bu.length };
    const state = [
      { at: carry, bytes: 8 * size },
      { at: stateLoc, bytes: 4 * size },
    ];
    bench.call([own], (k) => k.realScan(loc, lambda, stateLoc, zeros, tokens, k0, chunk, groups));
    bench.call([...state, { at: carries, bytes: 4 * size * rows }], (k) =>
      k.carryScan(carries, carry, stateLoc, loc, lambdaT, tokens, k0, chunk, groups, true),
    );
    bench.call([own], (k) => k.addCarry(loc, powers, carries, tokens, k0, chunk, groups, true));
    near13(bench.floats(loc, bu.length), "in one go");

    const [stepped, rounded, [carry1, stateLoc1]] = [bench.place(bu), bench.room(32), states()];
    const ks = bench.place(Int32Array.from({ length: tokens }, (_, t) => (k0 + t) % chunk));
    for (let t = 0; t < tokens; t++) {
      const at = stepped + 4 * size * t;
      const outputs = [
        { at, bytes: 4 * size },
        { at: rounded, bytes: 32 },
        { at: carry1, bytes: 8 * size },
        { at: stateLoc1, bytes: 4 * size },
      ];
      bench.call(outputs, (k) =>
        // biome-ignore format: the kernel's arguments
        k.stepScan(
          at, rounded, carry1, stateLoc1, 0, ks + 4 * t, lambdaT, powers, chunk, 1, groups, true,
        ),
      );
    }
    same(bench.floats(stepped, bu.length), bench.floats(loc, bu.length), `h of steps, k0 ${k0}`);
    same(bench.doubles(carry1, size), bench.doubles(carry, size), "carry of steps");
    same(bench.floats(stateLoc1, size), bench.floats(stateLoc, size), "loc of the state of steps");
    bench.clear();
  }
}
