/** The scan over complex states, in three kernels, in one, and token by token. */
import type { Bench } from "../bench.js";
import { floats } from "../problems.js";
import { type Checks, doubles, near, product, same, U } from "./compare.js";

export const scanChecks: Checks = {
  "projectScan, carryScan, addCarry, tiles, stepScan: one scan": scans,
  "tiles: h and y of some tokens at a time": tilesOfRow,
  "stepScan: rows do not see each other": stepRows,
};

interface Scan {
  readonly groups: number;
  readonly dModel: number;
  readonly chunk: number;
  /** Addresses. */
  readonly B: number;
  readonly lambda: number;
  readonly lambdaT: number;
  readonly powers: number;
  readonly values: { readonly [Name in "B" | "lambda" | "powers"]: Float32Array } & {
    readonly lambdaT: Float64Array;
  };
}

function placeScan(bench: Bench, dModel: number, groups: number, chunk: number): Scan {
  const values = {
    B: floats(groups * dModel * 8, 1),
    lambda: floats(groups * 8, 2, 0.7),
    powers: floats(chunk * groups * 8, 3),
    lambdaT: doubles(groups * 8, 4),
  };
  values.powers.set(values.lambda);
  const { B, lambda, powers, lambdaT } = values;
  return {
    ...{ groups, dModel, chunk, values },
    ...{
      B: bench.place(B),
      lambda: bench.place(lambda),
      powers: bench.place(powers),
      lambdaT: bench.place(lambdaT),
    },
  };
}

/** One stretch of tokens in the three ways that promise the same bits, each against the recurrence in float64. */
function scans(bench: Bench): void {
  for (const [dModel, groups, chunk, k0, tokens] of [
    [3, 2, 5, 0, 13],
    [5, 1, 5, 2, 13],
    [1, 3, 5, 4, 1],
    [2, 2, 5, 3, 2],
    [4, 1, 13, 0, 12],
    [4, 1, 13, 1, 12],
    [2, 1, 16, 0, 15],
    [2, 2, 4, 0, 8],
    [2, 1, 7, 6, 30],
    [3, 3, 2, 1, 19], // more chunks than are projected at a time
    [2, 2, 4, 0, 36],
  ] as const) {
    const what = `${tokens} tokens from ${k0} of ${chunk}`;
    const scan = placeScan(bench, dModel, groups, chunk);
    const size = 8 * groups;
    const uStride = 4 * dModel + 12;
    const u = floats(tokens * dModel, 5);
    const pu = bench.placeRows(u, dModel, uStride);
    const [carry0, loc0] = [doubles(size, 6), floats(size, 7)];
    const hBytes = tokens * 4 * size;
    const chunks = Math.ceil((tokens + k0) / chunk);
    const { B, lambda, lambdaT, powers } = scan;

    // In three kernels.
    const pair = 32 * Math.min(2, groups);
    const [h, last, carries] = [bench.room(hBytes), bench.room(pair), bench.room(chunks * 4 * size)];
    const [carry, stateLoc] = [bench.place(carry0), bench.place(loc0)];
    bench.call(
      [
        { at: h, bytes: hBytes },
        { at: last, bytes: pair },
      ],
      (k) => k.projectScan(h, last, pu, uStride, B, lambda, stateLoc, tokens, k0, chunk, dModel, groups),
    );
    const loc = bench.floats(h, tokens * size);
    const expected = recurrence(scan, u, carry0, loc0, k0, loc);
    near(loc, expected.loc, () => 40 * U, `loc, ${what}`);
    const outputs = [
      { at: carries, bytes: chunks * 4 * size },
      { at: carry, bytes: 8 * size },
      { at: stateLoc, bytes: 4 * size },
    ];
    bench.call(outputs, (k) => k.carryScan(carries, carry, stateLoc, h, lambdaT, tokens, k0, chunk, groups));
    same(bench.floats(carries, chunks * size), expected.carries, `carries, ${what}`);
    same(bench.doubles(carry, size), expected.carry, `carry, ${what}`);
    same(bench.floats(stateLoc, size), expected.stateLoc, `loc of the state, ${what}`);
    bench.call([{ at: h, bytes: hBytes }], (k) => k.addCarry(h, powers, carries, tokens, k0, chunk, groups));
    near(bench.floats(h, tokens * size), expected.h, () => 40 * U, `h, ${what}`);

    // In one.
    const [h1, rounded] = [bench.room(hBytes), bench.room(pair)];
    const [carry1, stateLoc1] = [bench.place(carry0), bench.place(loc0)];
    const written = [
      { at: h1, bytes: hBytes },
      { at: rounded, bytes: pair },
      { at: carry1, bytes: 8 * size },
      { at: stateLoc1, bytes: 4 * size },
    ];
    bench.call(written, (k) =>
      k.tiles(
        ...([0, h1, rounded, carry1, stateLoc1, pu, uStride, B, lambdaT, powers, 0, 0] as const),
        ...([tokens, k0, chunk, dModel, groups, 0] as const),
      ),
    );
    same(bench.floats(h1, tokens * size), bench.floats(h, tokens * size), `h in one pass, ${what}`);
    same(bench.doubles(carry1, size), expected.carry, `carry in one pass, ${what}`);
    same(bench.floats(stateLoc1, size), expected.stateLoc, `loc of the state in one pass, ${what}`);

    // Token by token.
    const [h2, rounded2] = [bench.room(4 * size), bench.room(32)];
    const [carry2, stateLoc2] = [bench.place(carry0), bench.place(k0 > 0 ? loc0 : new Float32Array(size))];
    const ks = bench.place(Int32Array.from({ length: tokens }, (_, t) => (k0 + t) % chunk));
    for (let t = 0; t < tokens; t++) {
      bench.call([{ at: h2, bytes: 4 * size }], (k) =>
        k.dense(h2, 4 * size, pu + t * uStride, uStride, B, 0, 0, 1, dModel, size),
      );
      stepOne(bench, scan, h2, rounded2, carry2, stateLoc2, ks + 4 * t);
      same(bench.floats(h2, size), bench.floats(h + t * 4 * size, size), `h of step ${t}, ${what}`);
    }
    same(bench.doubles(carry2, size), expected.carry, `carry of steps, ${what}`);
    same(bench.floats(stateLoc2, size), expected.stateLoc, `loc of the state of steps, ${what}`);
    bench.clear();
  }
}

/** y is what `output` makes of all h at once, and the state is left as that leaves it, wherever the chunks end. */
function tilesOfRow(bench: Bench): void {
  for (const [dModel, groups, chunk, k0, tokens] of [
    [4, 2, 5, 0, 33],
    [8, 1, 4, 3, 17],
    [4, 3, 6, 5, 1],
    [12, 1, 3, 1, 14],
  ] as const) {
    const [size, width] = [8 * groups, 4 * dModel];
    const { B, lambdaT, powers } = placeScan(bench, dModel, groups, chunk);
    const uStride = width + 16;
    const u = bench.placeRows(floats(tokens * dModel, 5), dModel, uStride);
    const [carry0, loc0] = [doubles(size, 6), floats(size, 7)];
    const [C, D] = [bench.place(floats(size * dModel, 8)), bench.place(floats(dModel, 9))];
    const run = (y: number) => {
      const rows = y ? Math.min(tokens, chunk) : tokens;
      const pair = 32 * Math.min(2, groups);
      const [h, rounded] = [bench.room(4 * size * rows), bench.room(pair)];
      const [carry, stateLoc] = [bench.place(carry0), bench.place(loc0)];
      const written = [
        { at: y, bytes: y && width * tokens },
        { at: h, bytes: 4 * size * rows },
        { at: rounded, bytes: pair },
        { at: carry, bytes: 8 * size },
        { at: stateLoc, bytes: 4 * size },
      ];
      bench.call(written, (k) =>
        k.tiles(
          ...([y, h, rounded, carry, stateLoc, u, uStride, B, lambdaT, powers, C, D] as const),
          ...([tokens, k0, chunk, dModel, groups, dModel] as const),
        ),
      );
      return { h, carry: bench.doubles(carry, size), stateLoc: bench.floats(stateLoc, size) };
    };
    const [whole, y] = [run(0), bench.room(width * tokens)];
    bench.call([{ at: y, bytes: width * tokens }], (k) =>
      k.output(y, width, whole.h, C, D, u, uStride, tokens, size, dModel),
    );
    const what = `${tokens} tokens from ${k0}, ${chunk} at a time`;
    const to = bench.room(width * tokens);
    const { carry, stateLoc } = run(to);
    same(bench.floats(to, tokens * dModel), bench.floats(y, tokens * dModel), `y of ${what}`);
    same(carry, whole.carry, `carry after ${what}`);
    same(stateLoc, whole.stateLoc, `loc of the state after ${what}`);
    bench.clear();
  }
}

/** The scan in float64; what is carried, to the bit from the `rounded` loc of each token. */
function recurrence(
  scan: Scan,
  u: Float32Array,
  carry0: Float64Array,
  loc0: Float32Array,
  k0: number,
  rounded: Float32Array,
) {
  const { groups, dModel, chunk, values } = scan;
  const { B, lambda, powers, lambdaT } = values;
  const size = 8 * groups;
  const tokens = u.length / dModel;
  const [loc, h] = [new Float64Array(tokens * size), new Float64Array(tokens * size)];
  const carries: number[] = [];
  const carry = carry0.slice();
  const state = k0 > 0 ? Float64Array.from(loc0) : new Float64Array(size);
  let stateLoc = new Float32Array(size);
  let k = k0;
  for (let t = 0; t < tokens; t++, k++) {
    if (t === 0 || k === chunk) {
      if (k === chunk) k = 0;
      carries.push(...Float32Array.from(carry));
    }
    if (k === 0) state.fill(0);
    for (let i = 0; i < size; i += 1) {
      if (i & 4) continue;
      const [re, im] = [i, i + 4];
      let [r, m] = product([lambda[re], lambda[im]], [state[re], state[im]]);
      for (let j = 0; j < dModel; j++) {
        const panel = (i >> 3) * dModel * 8 + j * 8 + (i & 3);
        r += (u[t * dModel + j] as number) * (B[panel] as number);
        m += (u[t * dModel + j] as number) * (B[panel + 4] as number);
      }
      [state[re], state[im]] = [r, m];
      const first = carries.length - size;
      const [hr, hm] = product(
        [powers[k * size + re], powers[k * size + im]],
        [carries[first + re], carries[first + im]],
      );
      [loc[t * size + re], loc[t * size + im]] = [r, m];
      [h[t * size + re], h[t * size + im]] = [r + hr, m + hm];
    }
    const last = rounded.slice(t * size, (t + 1) * size);
    stateLoc = k + 1 < chunk ? last : new Float32Array(size);
    if (k + 1 < chunk) continue;
    for (let i = 0; i < size; i++) {
      if (i & 4) continue;
      const [r, m] = product([lambdaT[i], lambdaT[i + 4]], [carry[i], carry[i + 4]]);
      [carry[i], carry[i + 4]] = [r + (last[i] as number), m + (last[i + 4] as number)];
    }
  }
  return { loc, h, carries: Float32Array.from(carries), carry, stateLoc };
}

/** A token of one stream, by addresses: bu at `h` becomes h, `carry` and `loc` go past it. `k`: where its place in its chunk is. */
function stepOne(
  bench: Bench,
  { groups, chunk, lambdaT, powers }: Scan,
  h: number,
  rounded: number,
  carry: number,
  loc: number,
  k: number,
): void {
  const size = 8 * groups;
  const written = [
    { at: h, bytes: 4 * size },
    { at: rounded, bytes: 32 },
    { at: carry, bytes: 8 * size },
    { at: loc, bytes: 4 * size },
  ];
  bench.call(written, (kernels) =>
    kernels.stepScan(h, rounded, carry, loc, 0, k, lambdaT, powers, chunk, 1, groups),
  );
}

function stepRows(bench: Bench): void {
  const [groups, chunk, rows] = [2, 5, 3];
  const size = 8 * groups;
  const scan = placeScan(bench, 1, groups, chunk);
  const stride = 12 * size + 64;
  const [bu, states] = [floats(rows * size, 8), bench.room(rows * stride)];
  const write = (row: number) => {
    const at = bench.place(doubles(size, 10 + row));
    const from = bench.place(floats(size, 20 + row));
    bench.call([{ at: states + row * stride, bytes: 12 * size }], (k) => {
      k.copyRows(states + row * stride, 0, at, 0, 8 * size, 1);
      k.copyRows(states + row * stride + 8 * size, 0, from, 0, 4 * size, 1);
    });
    return { carry: at, loc: from };
  };
  const copies = Array.from({ length: rows }, (_, row) => write(row));
  const ks = bench.place(Int32Array.of(4, 0, 3));
  const [h, rounded] = [bench.place(bu), bench.room(32)];
  const { lambdaT, powers } = scan;
  const outputs = [
    { at: h, bytes: rows * 4 * size },
    { at: rounded, bytes: 32 },
    { at: states, bytes: 12 * size, rows, stride },
  ];
  bench.call(outputs, (k) =>
    k.stepScan(h, rounded, states, states + 8 * size, stride, ks, lambdaT, powers, chunk, rows, groups),
  );
  for (const [row, { carry, loc }] of copies.entries()) {
    const one = bench.place(bu.subarray(row * size, (row + 1) * size));
    stepOne(bench, scan, one, rounded, carry, loc, ks + 4 * row);
    same(bench.floats(h + row * 4 * size, size), bench.floats(one, size), `h of row ${row}`);
    same(bench.doubles(states + row * stride, size), bench.doubles(carry, size), `carry of row ${row}`);
    same(bench.floats(states + row * stride + 8 * size, size), bench.floats(loc, size), `loc of row ${row}`);
  }
}
