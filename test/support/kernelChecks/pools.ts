/** Pooling over a sequence, at once and token by token. */
import type { Bench } from "../bench.js";
import { floats } from "../problems.js";
import { type Checks, doubles, same } from "./compare.js";

export const poolChecks: Checks = {
  "poolLocal, poolCarry, poolResult, poolStep": pools,
};

type Pair = [Float64Array, Float64Array];

function pools(bench: Bench): void {
  const [width, chunk] = [8, 5];
  for (const isMax of [false, true]) {
    const empty = isMax ? -Infinity : 0;
    const join = (a: Float64Array, b: ArrayLike<number>) =>
      a.map((v, i) => (isMax ? Math.max(v, b[i] as number) : v + (b[i] as number)));
    for (const [k0, tokens] of [
      [0, 1],
      [0, 5],
      [0, 13],
      [3, 1],
      [3, 2],
      [3, 17],
      [4, 12],
    ] as const) {
      const what = `${tokens} tokens from ${k0}, ${isMax ? "max" : "mean"}`;
      const x = floats(tokens * width, 1).map((v) => v - (isMax ? 2 : 0)); // all below 0, where a sum starts
      const [carry0, loc0] = [2, 3].map((seed) =>
        doubles(width, seed).map((v) => v - (isMax ? 2 : 0)),
      ) as Pair;
      let carry = carry0.slice();
      const sums: number[] = [];
      let sum = k0 > 0 ? loc0 : new Float64Array(width).fill(empty);
      for (let t = 0, k = k0; t < tokens; t++) {
        sum = join(sum, x.subarray(t * width, (t + 1) * width));
        k = (k + 1) % chunk;
        if (k > 0 && t + 1 < tokens) continue;
        sums.push(...sum);
        if (k > 0) continue;
        carry = join(carry, sum);
        sum = new Float64Array(width).fill(empty);
      }
      const result = Float32Array.from(join(carry, sum).map((v) => (isMax ? v : v / 7)));

      const bytes = 8 * width;
      const [px, pSums, y] = [bench.place(x), bench.room(8 * sums.length), bench.room(4 * width)];
      const [pCarry, pLoc] = [bench.place(carry0), bench.place(loc0)];
      bench.call([{ at: pSums, bytes: 8 * sums.length }], (k) =>
        k.poolLocal(pSums, px, pLoc, tokens, k0, chunk, width, isMax),
      );
      same(bench.doubles(pSums, sums.length), Float64Array.from(sums), `sums, ${what}`);
      bench.call(
        [
          { at: pCarry, bytes },
          { at: pLoc, bytes },
        ],
        (k) => k.poolCarry(pCarry, pLoc, pSums, tokens, k0, chunk, width, isMax),
      );
      same(bench.doubles(pCarry, width), carry, `carry, ${what}`);
      same(bench.doubles(pLoc, width), sum, `sum of the state, ${what}`);
      bench.call([{ at: y, bytes: 4 * width }], (k) => k.poolResult(y, pCarry, pLoc, 7, width, isMax));
      same(bench.floats(y, width), result, `y, ${what}`);
      bench.clear();
    }
    poolSteps(bench, width, chunk, isMax);
  }
}

/** poolStep of three rows against the three kernels that it is made of. */
function poolSteps(bench: Bench, width: number, chunk: number, isMax: boolean): void {
  const bytes = 8 * width;
  const [rows, stride] = [3, 2 * bytes + 32];
  const x = floats(rows * width, 4);
  const [px, y, sums] = [bench.place(x), bench.room(rows * 4 * width), bench.room(bytes)];
  const [k, counts] = [Int32Array.of(4, 0, 2), Float64Array.of(5, 1, 23)];
  const [ks, pCounts, states] = [bench.place(k), bench.place(counts), bench.room(rows * stride)];
  const parts = Array.from({ length: rows }, (_, row) => {
    const [carry, loc] = [bench.place(doubles(width, 10 + row)), bench.place(doubles(width, 20 + row))];
    bench.call([{ at: states + row * stride, bytes: 2 * bytes }], (kernels) => {
      kernels.copyRows(states + row * stride, 0, carry, 0, bytes, 1);
      kernels.copyRows(states + row * stride + bytes, 0, loc, 0, bytes, 1);
    });
    return { carry, loc };
  });
  const outputs = [
    { at: y, bytes: rows * 4 * width },
    { at: sums, bytes },
    { at: states, bytes: 2 * bytes, rows, stride },
  ];
  bench.call(outputs, (kernels) =>
    kernels.poolStep(y, px, sums, states, states + bytes, stride, ks, pCounts, chunk, rows, width, isMax),
  );
  const one = bench.room(4 * width);
  for (const [row, { carry, loc }] of parts.entries()) {
    const written = [
      { at: one, bytes: 4 * width },
      { at: sums, bytes },
      { at: carry, bytes },
      { at: loc, bytes },
    ];
    bench.call(written, (kernels) => {
      kernels.poolLocal(sums, px + row * 4 * width, loc, 1, k[row] as number, chunk, width, isMax);
      kernels.poolCarry(carry, loc, sums, 1, k[row] as number, chunk, width, isMax);
      kernels.poolResult(one, carry, loc, counts[row] as number, width, isMax);
    });
    same(bench.floats(y + row * 4 * width, width), bench.floats(one, width), `y of row ${row}`);
    same(
      bench.doubles(states + row * stride, 2 * width),
      Float64Array.of(...bench.doubles(carry, width), ...bench.doubles(loc, width)),
      `state of row ${row}`,
    );
  }
  bench.clear();
}
