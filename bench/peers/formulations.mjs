/**
 * An LRU as tensor libraries can compute it, in real arithmetic. Each formulation is written once, over a small set of
 * operations that ONNX (onnx.mjs), tfjs and jax-js each have: { constant(make, shape), matmul(a, b), gemm(a, b, transA,
 * transB), add, sub, mul, reshape(a, shape), slice(a, axis, from, to), padFront(a, axis, n, shape), concat(list, axis) }.
 * `make` gives a constant's data: eager libraries ask only in the first run.
 *
 * x [rows * L, H] -> { y [rows * L, H], state(): h after the last token }; m is what matrices.mjs makes; h0 is where the
 * scan starts from. `step`: it goes on with lambda^step.
 */
import { transposed } from "./matrices.mjs";

/** The largest divisor of `length` up to `target`: blocks of a chunked scan are all of one size. */
export function blockSize(length, target) {
  for (let size = Math.min(length, target); size > 1; size--) if (length % size === 0) return size;
  return length; // a prime: one block
}

/**
 * Chunks as matrix products: within a chunk of T tokens the scan is one constant [T, T] matrix of powers of lambda for
 * each state; carries are scanned in the same way, and enter as two more columns. States come first: [N, rows * L].
 * h0: re, im [N, rows, 1]
 */
export function chunked(ops, x, { rows, L, H, N }, m, T, h0) {
  const bu = ops.gemm(
    ops.constant(() => m.inputRows, [2 * N, H]),
    x,
    false,
    true,
  );
  const parts = [ops.slice(bu, 0, 0, N), ops.slice(bu, 0, N, 2 * N)];
  const [re, im] = chunkedScan(ops, parts, h0, rows, L, N, m, T, 1);
  const out = (from, to) => ops.constant(() => transposed(m.outputRows, H, 2 * N).slice(from, to), [N, H]);
  const fromRe = ops.gemm(re, out(0, N * H), true, false);
  const fromIm = ops.gemm(im, out(N * H, 2 * N * H), true, false);
  return {
    y: ops.add(ops.add(fromRe, fromIm), skip(ops, x, m)),
    state: () => [re, im].map((a) => ops.slice(ops.reshape(a, [N, rows, L]), 2, L - 1, L)),
  };
}

/** parts: re, im [N, rows * L] -> the same, scanned */
function chunkedScan(ops, parts, h0, rows, L, N, m, target, step) {
  const T = L <= 2 * target ? L : blockSize(L, target);
  const blocks = (rows * L) / T;
  const both = ops.concat(
    parts.map((a) => ops.reshape(a, [N, blocks, T])),
    2,
  );
  let carries = h0;
  if (T < L) {
    const K = L / T;
    const ends = ops.matmul(
      both,
      ops.constant(() => endMatrix(N, T, m, step), [N, 2 * T, 2]),
    );
    const endParts = [0, 1].map((part) => ops.reshape(ops.slice(ends, 2, part, part + 1), [N, blocks]));
    const scanned = chunkedScan(ops, endParts, h0, rows, K, N, m, target, step * T);
    // The carry of a chunk is the state after the one before it.
    carries = scanned.map((a, part) => {
      const before = ops.slice(ops.reshape(a, [N, rows, K]), 2, 0, K - 1);
      return ops.reshape(ops.concat([h0[part], before], 2), [N, blocks, 1]);
    });
  }
  const input = ops.concat([both, ...carries], 2);
  return [0, 1].map((part) => {
    const matrix = ops.constant(() => scanMatrices(N, T, m, step)[part], [N, 2 * T + 2, T]);
    return ops.reshape(ops.matmul(input, matrix), [N, rows * L]);
  });
}

/** [N, 2 T + 2, T] twice: (re of T tokens, im of them, carry) to re h and to im h of each token. */
function scanMatrices(N, T, { power }, step) {
  const inner = 2 * T + 2;
  const toRe = new Float32Array(N * inner * T);
  const toIm = new Float32Array(N * inner * T);
  for (let n = 0; n < N; n++) {
    const put = (row, t, re, im) => {
      toRe[(n * inner + row) * T + t] = re;
      toIm[(n * inner + row) * T + t] = im;
    };
    for (let distance = 0; distance < T; distance++) {
      const [re, im] = power(n, step * distance);
      for (let t = distance; t < T; t++) {
        put(t - distance, t, re, im);
        put(T + t - distance, t, -im, re);
      }
    }
    for (let t = 0; t < T; t++) {
      const [re, im] = power(n, step * (t + 1));
      put(2 * T, t, re, im);
      put(2 * T + 1, t, -im, re);
    }
  }
  return [toRe, toIm];
}

/** [N, 2 T, 2]: to re and im of h after the last token of a chunk that starts from zero. */
function endMatrix(N, T, { power }, step) {
  const matrix = new Float32Array(N * 2 * T * 2);
  for (let n = 0; n < N; n++)
    for (let t = 0; t < T; t++) {
      const [re, im] = power(n, step * (T - 1 - t));
      matrix.set([re, im], (n * 2 * T + t) * 2);
      matrix.set([-im, re], (n * 2 * T + T + t) * 2);
    }
  return matrix;
}

/**
 * Chunks as a short loop: T steps advance all chunks at once, one token each; carries are scanned in the same way, and
 * added times a constant [T, N] of powers of lambda. h0: re, im [rows, 1, N]
 */
export function looped(ops, x, shape, m, T, h0) {
  const { rows, L, N } = shape;
  const parts = projected(ops, x, shape, m);
  const h = loopedScan(ops, parts, h0, rows, L, N, m, T, 1);
  const [re, im] = h.map((a) => ops.reshape(a, [rows * L, N]));
  return {
    y: output(ops, x, re, im, shape, m),
    state: () => h.map((a) => ops.slice(ops.reshape(a, [rows, L, N]), 1, L - 1, L)),
  };
}

/** parts: re, im [rows, L, N] -> [rows * L / T, T, N] */
function loopedScan(ops, parts, h0, rows, L, N, m, target, step) {
  const T = L <= 2 * target ? L : blockSize(L, target);
  const blocks = (rows * L) / T;
  const inputs = parts.map((a) => ops.reshape(a, [blocks, T, N]));
  const lambda = powers(ops, N, m, [step]);
  const steps = [];
  for (let t = 0; t < T; t++) {
    const token = inputs.map((a) => ops.slice(a, 1, t, t + 1));
    // Chunks start from zero, and get their carry later; where there is one chunk, it starts from h0.
    const before = t > 0 ? steps[t - 1] : T === L && h0;
    steps.push(before ? multiplyAdd(ops, lambda, before, token) : token);
  }
  const local = [0, 1].map((part) =>
    ops.concat(
      steps.map((pair) => pair[part]),
      1,
    ),
  );
  if (T === L) return local;
  const K = L / T;
  const ends = steps[T - 1].map((a) => ops.reshape(a, [rows, K, N]));
  const scanned = loopedScan(ops, ends, h0, rows, K, N, m, target, step * T);
  const carries = scanned.map((a, part) => {
    const before = ops.slice(ops.reshape(a, [rows, K, N]), 1, 0, K - 1);
    return ops.reshape(ops.concat([h0[part], before], 1), [blocks, 1, N]);
  });
  const exponents = Array.from({ length: T }, (_, t) => step * (t + 1));
  return multiplyAdd(ops, powers(ops, N, m, exponents), carries, local);
}

/** Hillis and Steele: log2 L passes over the whole sequence, each with lambda^d for tokens d apart. */
export function logStep(ops, x, shape, m) {
  const { rows, L, N } = shape;
  let h = projected(ops, x, shape, m);
  for (let d = 1; d < L; d *= 2) {
    const shifted = h.map((a) => ops.padFront(ops.slice(a, 1, 0, L - d), 1, d, [rows, L - d, N]));
    h = multiplyAdd(ops, powers(ops, N, m, [d]), shifted, h);
  }
  return { y: output(ops, x, ...h.map((a) => ops.reshape(a, [rows * L, N])), shape, m) };
}

/** Where a library has a loop over tokens (ONNX Scan): ops.scan(re, im, lambda) on [rows, L, N]. */
export function scanOp(ops, x, shape, m) {
  const { rows, L, N } = shape;
  const [re, im] = projected(ops, x, shape, m);
  const [hRe, hIm] = ops.scan(re, im, m, rows, N);
  return { y: output(ops, x, ops.reshape(hRe, [rows * L, N]), ops.reshape(hIm, [rows * L, N]), shape, m) };
}

/** B_norm x: re, im [rows, L, N] */
function projected(ops, x, { rows, L, H, N }, m) {
  const bu = ops.matmul(
    x,
    ops.constant(() => transposed(m.inputRows, 2 * N, H), [H, 2 * N]),
  );
  return [0, N].map((from) => ops.reshape(ops.slice(bu, 1, from, from + N), [rows, L, N]));
}

/** Re(C h) + D x; re, im [rows * L, N] */
function output(ops, x, re, im, { H, N }, m) {
  const C = ops.constant(() => transposed(m.outputRows, H, 2 * N), [2 * N, H]);
  return ops.add(ops.matmul(ops.concat([re, im], 1), C), skip(ops, x, m));
}

const skip = (ops, x, m) =>
  ops.mul(
    x,
    ops.constant(() => m.D, [1, m.H]),
  );

/** a b + c, complex pairs */
function multiplyAdd(ops, [aRe, aIm], [bRe, bIm], [cRe, cIm]) {
  return [
    ops.add(ops.sub(ops.mul(aRe, bRe), ops.mul(aIm, bIm)), cRe),
    ops.add(ops.add(ops.mul(aRe, bIm), ops.mul(aIm, bRe)), cIm),
  ];
}

/** lambda^k for each exponent: a pair of constants [1, exponents, N] */
function powers(ops, N, { power }, exponents) {
  return [0, 1].map((part) => {
    const value = (_, i) => power(i % N, exponents[Math.floor(i / N)])[part];
    const make = () => Float32Array.from({ length: exponents.length * N }, value);
    return ops.constant(make, [1, exponents.length, N]);
  });
}
