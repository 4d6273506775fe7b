/**
 * Every kernel by itself against plain loops in float64, and to the bit where several kernels promise the same bits.
 * A check throws at the first fault. Weights and tables are random numbers, unrelated to each other: a kernel that takes
 * one for another is off.
 */
import type { LruStage, Program, Stage } from "../../src/program.js";
import { runReference } from "../../src/reference.js";
import type { Bench } from "./bench.js";
import { floats, random } from "./problems.js";

type LocalStage = Exclude<Stage, LruStage>;

const U = 2 ** -24;

export const kernelChecks: Readonly<Record<string, (bench: Bench) => void>> = {
  "dense: every tile of rows and columns": (bench) => products(bench, false),
  "output: every tile of rows and columns": (bench) => products(bench, true),
  "projectScan, carryScan, addCarry, projectHidden, stepScan: one scan": scans,
  "stepScan: rows do not see each other": stepRows,
  "realScan, carryScan, addCarry, stepScan, timedScan: states that are parts of one": realScans,
  "timedScan: lambda^dt in float64, and the scan": timedScans,
  "poolLocal, poolCarry, poolResult, poolStep": pools,
  add: (bench) => {
    const [a, b] = [floats(20, 1), floats(20, 2)];
    const [y, pa, pb] = [bench.room(80), bench.place(a), bench.place(b)];
    bench.call([{ at: y, bytes: 80 }], (k) => k.add(y, pa, pb, 20));
    same(
      bench.floats(y, 20),
      a.map((v, i) => v + (b[i] as number)),
      "y",
    );
  },
  copyRows: (bench) => {
    const x = floats(12, 1);
    const [from, y] = [bench.placeRows(x, 3, 28), bench.room(80)];
    bench.call([{ at: y, bytes: 12, rows: 4, stride: 20 }], (k) => k.copyRows(y, 20, from, 28, 12, 4));
    same(bench.rows(y, 4, 3, 20), x, "y");
  },
  "embedding: an id that is none reads the last row": (bench) => {
    const [width, vocabulary] = [8, 5];
    const table = floats(width * vocabulary, 1);
    const ids = Int32Array.of(2, 0, 4, 5, -1, 1);
    const [y, x, t] = [bench.room(4 * width * ids.length), bench.place(ids), bench.place(table)];
    bench.call([{ at: y, bytes: 4 * width * ids.length }], (k) =>
      k.embedding(y, x, t, ids.length, width, vocabulary),
    );
    const expected = [...ids].flatMap((id) => {
      const row = id >= 0 && id < vocabulary ? id : vocabulary - 1;
      return [...table.subarray(row * width, (row + 1) * width)];
    });
    same(bench.floats(y, expected.length), Float32Array.from(expected), "y");
  },
  batchNorm: (bench) => {
    for (const width of [4, 12]) {
      const [x, mean, scale, bias] = [
        floats(5 * width, 1),
        floats(width, 2),
        floats(width, 3),
        floats(width, 4),
      ];
      const [y, px, pm, pf, pb] = [
        bench.room(20 * width),
        ...[x, mean, scale, bias].map((v) => bench.place(v)),
      ] as Five;
      bench.call([{ at: y, bytes: 20 * width }], (k) => k.batchNorm(y, px, pm, pf, pb, 5, width));
      const variance = new Float32Array(width).fill(1);
      const stage = { ...at, kind: "batchNorm", width, mean, variance, scale, bias, epsilon: 0 } as const;
      near(bench.floats(y, 5 * width), expectedOf(stage, x, width), () => 4 * U, "y");
    }
  },
  gelu: (bench) => {
    const x = hardValues();
    for (const exact of [true, false]) {
      const y = bench.room(4 * x.length);
      const px = bench.place(x);
      bench.call([{ at: y, bytes: 4 * x.length }], (k) => k.gelu(y, px, exact, x.length));
      const expected = expectedOf({ ...at, kind: "gelu", width: 1, exact }, x, 1);
      near(
        bench.floats(y, x.length),
        expected,
        (i) => 4 * U * Math.max(1, Math.abs(x[i] as number)),
        `exact ${exact}`,
      );
    }
  },
  glu: (bench) => {
    const gate = hardValues();
    const x = floats(gate.length, 1, 3);
    for (const silu of [true, false]) {
      const y = bench.room(4 * x.length);
      const [px, pg] = [bench.place(x), bench.place(gate)];
      bench.call([{ at: y, bytes: 4 * x.length }], (k) => k.glu(y, px, pg, silu, x.length));
      const expected = x.map((v, i) => {
        const z = gate[i] as number;
        return (v * (silu ? z : 1)) / (1 + Math.exp(-z));
      });
      near(
        bench.floats(y, x.length),
        expected,
        (i) => 16 * U * Math.max(Math.abs(expected[i] as number), 1e-6),
        `silu ${silu}`,
      );
    }
  },
  layerNorm: (bench) => {
    for (const width of [1, 3, 4, 6, 16, 17]) {
      const padded = 4 * Math.ceil(width / 4);
      const stride = 4 * padded + 16;
      for (const centred of [true, false]) {
        const x = floats(3 * width, width, 0.1).map((v) => v + 0.2);
        const [scale, bias] = [floats(width, 2), floats(width, 3)];
        const wide = (values: Float32Array) => {
          const result = new Float32Array(padded);
          result.set(values);
          return bench.place(result);
        };
        // What pads x may be any number.
        const paddedX = Float32Array.from({ length: 3 * padded }, (_, i) =>
          i % padded < width ? (x[Math.floor(i / padded) * width + (i % padded)] as number) : 7,
        );
        const [y, px] = [bench.room(3 * stride), bench.placeRows(paddedX, padded, stride)];
        const [ps, pb] = [wide(scale), wide(centred ? bias : new Float32Array(width))];
        bench.call([{ at: y, bytes: 4 * padded, rows: 3, stride }], (k) =>
          k.layerNorm(y, px, stride, ps, pb, 1e-3, centred, 3, width),
        );
        const norm = { ...at, width, scale, epsilon: 1e-3 };
        const stage: LocalStage = centred
          ? { ...norm, kind: "layerNorm", bias }
          : { ...norm, kind: "rmsNorm" };
        near(
          bench.rows(y, 3, width, stride),
          expectedOf(stage, x, width),
          () => 40 * U,
          `${width}, ${centred}`,
        );
        const padding = new Float32Array(padded - width);
        for (let row = 0; row < 3; row++)
          near(bench.floats(y + row * stride + 4 * width, padding.length), padding, () => 0, "padding");
        bench.clear();
      }
    }
  },
  logSoftmax: (bench) => {
    for (const [width, group, magnitude] of [
      [12, 3, 2],
      [12, 12, 80],
      [5, 5, 1],
      [300, 300, 1e-3],
    ] as const) {
      const x = floats(3 * width, width, magnitude);
      const stride = 4 * width + 12;
      const [y, px] = [bench.room(3 * stride), bench.placeRows(x, width, stride)];
      bench.call([{ at: y, bytes: 4 * width, rows: 3, stride }], (k) =>
        k.logSoftmax(y, px, stride, 3, width, group),
      );
      const expected = expectedOf({ ...at, kind: "logSoftmax", width, group }, x, width);
      near(
        bench.rows(y, 3, width, stride),
        expected,
        (i) => 8 * U * Math.max(1, Math.abs(expected[i] as number)),
        "y",
      );
    }
    // The largest is taken off before exp, or exp overflows: wherever the largest is.
    for (const values of [
      [0, 1, 300],
      [300, 0, 1],
      [0, 300, 1],
    ]) {
      const x = Float32Array.from(values);
      const place = bench.place(x);
      bench.call([{ at: place, bytes: 12 }], (k) => k.logSoftmax(place, place, 12, 1, 3, 3));
      near(
        bench.floats(place, 3),
        expectedOf({ ...at, kind: "logSoftmax", width: 3, group: 3 }, x, 3),
        () => 2400 * U,
        "y",
      );
    }
    const x = bench.place(Float32Array.of(1, Number.NaN, 2));
    bench.call([{ at: x, bytes: 12 }], (k) => k.logSoftmax(x, x, 12, 1, 3, 3));
    if (!bench.floats(x, 3).every(Number.isNaN)) throw new Error("a NaN does not reach its whole group");
  },
};

type Pair = [Float64Array, Float64Array];
type Five = [number, number, number, number, number];

const at = { name: "stage", src: 0, dst: 1 };

/** What a stage makes of x, in float64. */
function expectedOf(stage: LocalStage, x: Float32Array, width: number): Float64Array {
  const program: Program = { architecture: "test", slots: [width, width], stages: [stage], output: 1 };
  return runReference(program, { x, batch: 1, seqLen: x.length / width }).y;
}

/** From one side of every branch and clamp of exp, erf and sigmoid to the other. */
function hardValues(): Float32Array {
  const x = Float32Array.from({ length: 4000 }, (_, i) => ((i - 2000) / 100) * (i % 2 ? 1 : 0.1));
  x.set([0, -0, 1e-30, -1e-30, 90, -90, 200, -200]);
  return x;
}

function near(actual: Values, expected: Values, allowed: (i: number) => number, what: string): void {
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] as number, expected[i] as number];
    if (!(Math.abs(a - e) <= allowed(i))) throw new Error(`${what}: [${i}] is ${a}, expected ${e}`);
  }
}

function same(actual: Values, expected: Values, what: string): void {
  for (let i = 0; i < expected.length; i++)
    if (!Object.is(actual[i], expected[i]))
      throw new Error(`${what}: [${i}] is ${actual[i]}, expected ${expected[i]}`);
}

type Values = Float32Array | Float64Array;

const doubles = (length: number, seed: number) => {
  const next = random(seed);
  return Float64Array.from({ length }, () => 2 * next() - 1);
};

/** Panels of 8 columns and perhaps one of 4, as the kernels read a matrix [inWidth, outWidth]. */
function panels(W: Float32Array, inWidth: number, outWidth: number): Float32Array {
  const result = new Float32Array(W.length);
  for (let k = 0; k < inWidth; k++) {
    for (let o = 0; o < outWidth; o++) {
      const first = o & ~7;
      const columns = Math.min(8, outWidth - first);
      result[first * inWidth + k * columns + (o - first)] = W[k * outWidth + o] as number;
    }
  }
  return result;
}

function products(bench: Bench, skips: boolean): void {
  for (const [inWidth, outWidth, counts] of [
    [8, 4, [1, 2, 7, 8, 9, 21]],
    [8, 8, [1, 2, 3, 4, 5, 6, 7, 11, 13]],
    [16, 12, [1, 6, 10, 23]],
    [24, 44, [1, 3, 17]],
    [8, 72, [2, 5]],
    [5000, 12, [29]], // more rows than are taken at a time
    [8, 8, [6200]],
  ] as const) {
    for (const tokens of counts) {
      const [W, v] = [floats(inWidth * outWidth, 1), floats(outWidth, 2)];
      const [x, u] = [floats(tokens * inWidth, 3), floats(tokens * outWidth, 4)];
      const yStride = 4 * outWidth + 16;
      const xStride = skips ? 4 * inWidth : 4 * inWidth + 20;
      const uStride = 4 * outWidth + 32;
      const [pW, pv, px] = [
        bench.place(panels(W, inWidth, outWidth)),
        bench.place(v),
        bench.placeRows(x, inWidth, xStride),
      ];
      const pu = bench.placeRows(u, outWidth, uStride);
      const [y, alone] = [bench.room(tokens * yStride), bench.room(tokens * yStride)];
      const run = (to: number, from: number, count: number) =>
        bench.call([{ at: to + from * yStride, bytes: 4 * outWidth, rows: count, stride: yStride }], (k) => {
          const [row, input] = [to + from * yStride, px + from * xStride];
          if (skips)
            k.output(row, yStride, input, pW, pv, pu + from * uStride, uStride, count, inWidth, outWidth);
          else k.dense(row, yStride, input, xStride, pW, pv, count, inWidth, outWidth);
        });
      run(y, 0, tokens);
      const actual = bench.rows(y, tokens, outWidth, yStride);
      for (let i = 0; i < actual.length; i++) {
        const [t, o] = [Math.floor(i / outWidth), i % outWidth];
        let sum = (v[o] as number) * (skips ? (u[i] as number) : 1);
        let size = Math.abs(sum);
        for (let k = 0; k < inWidth; k++) {
          const term = (x[t * inWidth + k] as number) * (W[k * outWidth + o] as number);
          sum += term;
          size += Math.abs(term);
        }
        if (!(Math.abs((actual[i] as number) - sum) <= (inWidth + 2) * U * size))
          throw new Error(
            `${tokens} x ${inWidth} x ${outWidth}: [${t}, ${o}] is ${actual[i]}, expected ${sum}`,
          );
      }
      const few = Math.min(tokens, 40);
      for (let t = 0; t < few; t++) run(alone, t, 1);
      same(
        actual.subarray(0, few * outWidth),
        bench.rows(alone, few, outWidth, yStride),
        `${tokens} x ${inWidth} x ${outWidth}, row by row`,
      );
      bench.clear();
    }
  }
}

interface Scan {
  readonly groups: number;
  readonly dModel: number;
  readonly chunk: number;
  /** Addresses. */
  readonly B: number;
  readonly lambda: number;
  readonly lambdaT: number;
  readonly powers: number;
  readonly zeros: number;
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
  const { B, lambda, powers, lambdaT } = values;
  return {
    ...{ groups, dModel, chunk, values },
    ...{
      B: bench.place(B),
      lambda: bench.place(lambda),
      powers: bench.place(powers),
      lambdaT: bench.place(lambdaT),
    },
    zeros: bench.place(new Float32Array(groups * 8)),
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
    const [h, last, carries] = [bench.room(hBytes), bench.room(32), bench.room(chunks * 4 * size)];
    const [carry, stateLoc] = [bench.place(carry0), bench.place(loc0)];
    bench.call(
      [
        { at: h, bytes: hBytes },
        { at: last, bytes: 32 },
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
    const [h1, rounded] = [bench.room(hBytes), bench.room(32)];
    const [carry1, stateLoc1] = [bench.place(carry0), bench.place(loc0)];
    const written = [
      { at: h1, bytes: hBytes },
      { at: rounded, bytes: 32 },
      { at: carry1, bytes: 8 * size },
      { at: stateLoc1, bytes: 4 * size },
    ];
    bench.call(written, (k) =>
      k.projectHidden(
        ...([h1, rounded, carry1, stateLoc1, pu, uStride, B, lambda, lambdaT, powers] as const),
        ...([tokens, k0, chunk, dModel, groups] as const),
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
        k.dense(h2, 4 * size, pu + t * uStride, uStride, B, scan.zeros, 1, dModel, size),
      );
      const outputs = [
        { at: h2, bytes: 4 * size },
        { at: rounded2, bytes: 32 },
        { at: carry2, bytes: 8 * size },
        { at: stateLoc2, bytes: 4 * size },
      ];
      bench.call(outputs, (k) =>
        k.stepScan(h2, rounded2, carry2, stateLoc2, 0, ks + 4 * t, lambda, lambdaT, powers, chunk, 1, groups),
      );
      same(bench.floats(h2, size), bench.floats(h + t * 4 * size, size), `h of step ${t}, ${what}`);
    }
    same(bench.doubles(carry2, size), expected.carry, `carry of steps, ${what}`);
    same(bench.floats(stateLoc2, size), expected.stateLoc, `loc of the state of steps, ${what}`);
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

type Complex = [number | undefined, number | undefined];

function product(a: Complex, b: Complex): [number, number] {
  const [[ar, ai], [br, bi]] = [a as [number, number], b as [number, number]];
  return [ar * br - ai * bi, ar * bi + ai * br];
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
  const { lambda, lambdaT, powers } = scan;
  const outputs = [
    { at: h, bytes: rows * 4 * size },
    { at: rounded, bytes: 32 },
    { at: states, bytes: 12 * size, rows, stride },
  ];
  bench.call(outputs, (k) =>
    k.stepScan(
      h,
      rounded,
      states,
      states + 8 * size,
      stride,
      ks,
      lambda,
      lambdaT,
      powers,
      chunk,
      rows,
      groups,
    ),
  );
  for (const [row, { carry, loc }] of copies.entries()) {
    const one = bench.place(bu.subarray(row * size, (row + 1) * size));
    const written = [
      { at: one, bytes: 4 * size },
      { at: rounded, bytes: 32 },
      { at: carry, bytes: 8 * size },
      { at: loc, bytes: 4 * size },
    ];
    bench.call(written, (k) =>
      k.stepScan(one, rounded, carry, loc, 0, ks + 4 * row, lambda, lambdaT, powers, chunk, 1, groups),
    );
    same(bench.floats(h + row * 4 * size, size), bench.floats(one, size), `h of row ${row}`);
    same(bench.doubles(states + row * stride, size), bench.doubles(carry, size), `carry of row ${row}`);
    same(bench.floats(states + row * stride + 8 * size, size), bench.floats(loc, size), `loc of row ${row}`);
  }
}

/** All by one recurrence in float64, in chunks of 5 tokens from inside one. */
function realScans(bench: Bench): void {
  const [chunk, groups, tokens] = [5, 2, 13];
  const size = 8 * groups;
  const nu = Array.from({ length: size }, (_, i) => 0.01 + i / 20);
  const power = (k: number, i: number) => Math.exp(-k * (nu[i] as number));
  const table = (rows: number, first: number) =>
    Float64Array.from({ length: rows * size }, (_, at) => power(first + Math.floor(at / size), at % size));
  const [bu, carry0, loc0] = [floats(tokens * size, 1), doubles(size, 2), floats(size, 3)];
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
          at, rounded, carry1, stateLoc1, 0, ks + 4 * t, lambda, lambdaT, powers, chunk, 1, groups, true,
        ),
      );
    }
    same(bench.floats(stepped, bu.length), bench.floats(loc, bu.length), `h of steps, k0 ${k0}`);
    same(bench.doubles(carry1, size), bench.doubles(carry, size), "carry of steps");
    same(bench.floats(stateLoc1, size), bench.floats(stateLoc, size), "loc of the state of steps");
    bench.clear();
  }
}

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
