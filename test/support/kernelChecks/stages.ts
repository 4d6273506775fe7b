/** The stages that see one token at a time. */
import type { LruStage, Program, Stage } from "../../../src/program.js";
import { runReference } from "../../../src/reference.js";
import { floats } from "../problems.js";
import { type Checks, near, same, U } from "./compare.js";

type LocalStage = Exclude<Stage, LruStage>;

export const stageChecks: Checks = {
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
  addRows: (bench) => {
    const [a, b] = [floats(21, 1), floats(21, 2)];
    const [y, from] = [bench.placeRows(a, 7, 36), bench.placeRows(b, 7, 32)];
    // From the last row of y back.
    const written = [{ at: y, bytes: 28, rows: 3, stride: 36 }];
    bench.call(written, (k) => k.addRows(y + 72, -36, from, 32, 28, 3));
    const sums = a.map((v, i) => v + (b[14 - 7 * Math.floor(i / 7) + (i % 7)] as number));
    same(bench.rows(y, 3, 7, 36), sums, "y");
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
