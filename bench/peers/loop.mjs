/** What a careful programmer writes without a library: typed arrays, no allocation, blocked for registers and cache. */
import { fillInput, inputLength, paramsOf } from "../shapes.mjs";
import { matrices } from "./matrices.mjs";

/** Tokens that are projected together: their hidden values stay in the nearest cache. */
const TILE = 32;

export async function open() {
  return {
    versions: {},
    formulations: ({ batch, seqLen, dModel }) => [{ name: "tiled loop", bytes: 8 * batch * seqLen * dModel }],
    async prepare(shape) {
      const m = matrices(paramsOf(shape));
      const x = fillInput(new Float32Array(inputLength(shape)));
      const y = new Float32Array(x.length);
      const work = { bu: new Float32Array(TILE * 2 * m.N), h: new Float32Array(2 * m.N) };
      return { run: () => forward(m, x, y, shape, work), read: () => y, dispose() {} };
    },
  };
}

function forward({ H, N, inputRows, outputRows, lambdaRe, lambdaIm, D }, x, y, { batch, seqLen }, { bu, h }) {
  for (let row = 0; row < batch; row++) {
    h.fill(0);
    for (let t = 0; t < seqLen; t += TILE) {
      const tokens = Math.min(TILE, seqLen - t);
      const at = (row * seqLen + t) * H;
      multiply(inputRows, x, at, H, bu, 0, 2 * N, tokens);
      scan(lambdaRe, lambdaIm, h, bu, N, tokens);
      multiply(outputRows, bu, 0, 2 * N, y, at, H, tokens);
      for (let k = 0; k < tokens; k++)
        for (let j = 0; j < H; j++) y[at + k * H + j] += D[j] * x[at + k * H + j];
    }
  }
}

/** bu [tokens, 2 N] -> h of every token, in place; h [2 N] goes on. */
function scan(lambdaRe, lambdaIm, h, bu, N, tokens) {
  for (let n = 0; n < N; n++) {
    const a = lambdaRe[n];
    const b = lambdaIm[n];
    let re = h[n];
    let im = h[N + n];
    for (let t = 0, at = n; t < tokens; t++, at += 2 * N) {
      const next = Math.fround(a * re - b * im + bu[at]);
      im = Math.fround(a * im + b * re + bu[at + N]);
      re = next;
      bu[at] = re;
      bu[at + N] = im;
    }
    h[n] = re;
    h[N + n] = im;
  }
}

/** out [tokens, columns] = a [tokens, inner] rows^T, rows [columns, inner]: 4 tokens by 2 columns in registers. */
function multiply(rows, a, aFrom, inner, out, outFrom, columns, tokens) {
  let c = 0;
  for (; c + 2 <= columns; c += 2) {
    const [w0, w1] = [c * inner, (c + 1) * inner];
    let t = 0;
    for (; t + 4 <= tokens; t += 4) {
      const a0 = aFrom + t * inner;
      const a1 = a0 + inner;
      const a2 = a1 + inner;
      const a3 = a2 + inner;
      let s00 = 0;
      let s01 = 0;
      let s10 = 0;
      let s11 = 0;
      let s20 = 0;
      let s21 = 0;
      let s30 = 0;
      let s31 = 0;
      for (let i = 0; i < inner; i++) {
        const u = rows[w0 + i];
        const v = rows[w1 + i];
        s00 += u * a[a0 + i];
        s01 += v * a[a0 + i];
        s10 += u * a[a1 + i];
        s11 += v * a[a1 + i];
        s20 += u * a[a2 + i];
        s21 += v * a[a2 + i];
        s30 += u * a[a3 + i];
        s31 += v * a[a3 + i];
      }
      const at = outFrom + t * columns + c;
      out[at] = s00;
      out[at + 1] = s01;
      out[at + columns] = s10;
      out[at + columns + 1] = s11;
      out[at + 2 * columns] = s20;
      out[at + 2 * columns + 1] = s21;
      out[at + 3 * columns] = s30;
      out[at + 3 * columns + 1] = s31;
    }
    for (; t < tokens; t++) {
      out[outFrom + t * columns + c] = dot(rows, w0, a, aFrom + t * inner, inner);
      out[outFrom + t * columns + c + 1] = dot(rows, w1, a, aFrom + t * inner, inner);
    }
  }
  for (; c < columns; c++)
    for (let t = 0; t < tokens; t++)
      out[outFrom + t * columns + c] = dot(rows, c * inner, a, aFrom + t * inner, inner);
}

function dot(a, aFrom, b, bFrom, length) {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += a[aFrom + i] * b[bFrom + i];
  return sum;
}
