/** The scan over tokens whose distances differ, and its powers of lambda. */
import type { Bench } from "../bench.js";
import { floats, random } from "../problems.js";
import { type Checks, type Complex, doubles, near, product, U } from "./compare.js";

export const timedScanChecks: Checks = {
  "timedScan: lambda^dt in float64, and the scan": timedScans,
};

function timedScans(bench: Bench): void {
  const TABLES = 8;
  const groups = 2;
  const size = 8 * groups;
  const next = random(5);
  const nu = Array.from({ length: 4 * groups }, (_, n) => (n % 4 === 3 ? 0 : 3 * next() ** n));
  const turns = Array.from({ length: 4 * groups }, (_, n) => (n % 3 ? next() : -next() / 6));
  const rates = new Float64Array(12 * groups);
  for (let n = 0; n < nu.length; n++) {
    const [to, all] = [12 * (n >> 2) + (n & 3), turns[n] as number];
    rates.set([nu[n] as number], to);
    rates.set([Math.fround(all)], to + 4);
    rates.set([all - Math.fround(all)], to + 8);
  }
  const lists = [
    [1, 0, 0.5, 1e-3, Math.PI, 47, 1000.3, 1e-38],
    [1, 2, 1, 1, 3, 4, 5, 6, 7, 8, 9, 1, 2, 9, 10, 11, 8, 0.25],
    Array.from({ length: 60 }, (_, i) => (i % 9) / 4),
    [2 ** 24 - 1, 987654336, 3e12], // what turns without decay, for millions of turns
    [2],
  ];
  for (const list of lists) {
    const dt = Float32Array.from(list);
    const bu = floats(dt.length * size, 1);
    const carry0 = doubles(size, 2);
    const [h, carry, pr, pd] = [bench.place(bu), bench.place(carry0), bench.place(rates), bench.place(dt)];
    // What lies there has these timesteps already, of another layer.
    const old = new Float32Array(TABLES * (2 * size + 1));
    old.set(dt.subarray(0, TABLES), TABLES * 2 * size);
    const tables = bench.place(old);
    const outputs = [
      { at: h, bytes: 4 * bu.length },
      { at: carry, bytes: 8 * size },
      { at: tables, bytes: TABLES * (8 * size + 4) },
    ];
    bench.call(outputs, (k) => k.timedScan(h, carry, tables, pr, pd, dt.length, groups));
    const [expected, state] = [new Float64Array(bu.length), carry0.slice()];
    for (const [t, delta] of dt.entries()) {
      for (let n = 0; n < nu.length; n++) {
        const i = 8 * (n >> 2) + (n & 3);
        const radius = Math.exp(-delta * (nu[n] as number));
        const [all, high] = [turns[n] as number, Math.fround(turns[n] as number)];
        const angle = 2 * Math.PI * (((delta * high) % 1) + delta * (all - high)); // the products are exact
        const power: Complex = [radius * Math.cos(angle), radius * Math.sin(angle)];
        const [r, m] = product(power, [state[i], state[i + 4]]);
        state[i] = r + (bu[t * size + i] as number);
        state[i + 4] = m + (bu[t * size + i + 4] as number);
        expected.set([state[i] as number], t * size + i);
        expected.set([state[i + 4] as number], t * size + i + 4);
        // The first values of dt are each in a table of their own.
        if (t >= TABLES || dt.indexOf(delta) < t) continue;
        const table = bench.doubles(tables + 8 * size * new Set(dt.subarray(0, t)).size, size);
        if (new Set(dt).size > TABLES) continue; // taken by later ones
        const allowed =
          radius * (2 ** -50 + 2 ** -52 * (Math.abs(angle) + delta * (nu[n] as number))) + 4e-308;
        near(
          Float64Array.of(table[i] as number, table[i + 4] as number),
          Float64Array.from(power as [number, number]),
          () => allowed,
          `lambda^${delta}`,
        );
      }
    }
    const scale = Math.max(...expected.map(Math.abs));
    near(bench.floats(h, bu.length), expected, () => 2 * U * scale, `h, ${dt.length} tokens`);
    near(bench.doubles(carry, size), state, () => 1e-12 * scale, `carry, ${dt.length} tokens`);
    bench.clear();
  }
}
