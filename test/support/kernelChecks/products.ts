/** The products of tokens with a matrix. */
import type { Bench } from "../bench.js";
import { floats } from "../problems.js";
import { type Checks, same, U } from "./compare.js";

export const productChecks: Checks = {
  "dense: every tile of rows and columns": (bench) => products(bench, "dense"),
  "dense: nothing is added": (bench) => products(bench, "dense without b"),
  "output: every tile of rows and columns": (bench) => products(bench, "output"),
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

function products(bench: Bench, kind: "dense" | "dense without b" | "output"): void {
  const skips = kind === "output";
  for (const [inWidth, outWidth, counts] of [
    [8, 4, [1, 2, 7, 8, 9, 21]],
    [8, 8, [1, 2, 3, 4, 5, 6, 7, 11, 13]],
    [16, 12, [1, 6, 10, 23]],
    [24, 44, [1, 3, 17]],
    [8, 72, [2, 5]],
    [5000, 12, [29]], // more rows than are taken at a time
    [8, 8, [6200]],
    // as many inputs as end in each place of the loops over k, which go in twos and eights
    ...Array.from({ length: 17 }, (_, i) => [i + 1, 44, [1, 4, 6]] as const),
  ] as const) {
    for (const tokens of counts) {
      const W = floats(inWidth * outWidth, 1);
      const v = kind === "dense without b" ? new Float32Array(outWidth) : floats(outWidth, 2);
      const [x, u] = [floats(tokens * inWidth, 3), floats(tokens * outWidth, 4)];
      const yStride = 4 * outWidth + 16;
      const xStride = skips ? 4 * inWidth : 4 * inWidth + 20;
      const uStride = 4 * outWidth + 32;
      const [pW, pv, px] = [
        bench.place(panels(W, inWidth, outWidth)),
        kind === "dense without b" ? 0 : bench.place(v),
        bench.placeRows(x, inWidth, xStride),
      ];
      const pu = bench.placeRows(u, outWidth, uStride);
      const ones = bench.place(new Float32Array(outWidth).fill(1));
      const [y, alone] = [bench.room(tokens * yStride), bench.room(tokens * yStride)];
      const run = (to: number, from: number, count: number) =>
        bench.call([{ at: to + from * yStride, bytes: 4 * outWidth, rows: count, stride: yStride }], (k) => {
          const [row, input] = [to + from * yStride, px + from * xStride];
          if (skips)
            k.output(row, yStride, input, pW, pv, pu + from * uStride, uStride, count, inWidth, outWidth);
          else k.dense(row, yStride, input, xStride, pW, pv, ones, count, inWidth, outWidth);
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
