/** An LRU's parameters as real matrices, derived in float64 and rounded once: what every peer computes with. */

export function matrices({ nuLog, thetaLog, gammaLog, BRe, BIm, CRe, CIm, D }) {
  const [N, H] = [nuLog.length, D.length];
  const nu = Float64Array.from(nuLog, Math.exp);
  const theta = Float64Array.from(thetaLog, Math.exp);
  /** Row n, then row N + n: re and im of B_norm. [2 N, H] */
  const inputRows = new Float32Array(2 * N * H);
  /** y = Re(C h): [Re C | -Im C]. [H, 2 N] */
  const outputRows = new Float32Array(2 * N * H);
  for (let n = 0; n < N; n++) {
    const gamma = Math.exp(gammaLog[n]);
    for (let j = 0; j < H; j++) {
      inputRows[n * H + j] = gamma * BRe[n * H + j];
      inputRows[(N + n) * H + j] = gamma * BIm[n * H + j];
      outputRows[j * 2 * N + n] = CRe[j * N + n];
      outputRows[j * 2 * N + N + n] = -CIm[j * N + n];
    }
  }
  /** lambda_n^k */
  const power = (n, k) => [
    Math.exp(-k * nu[n]) * Math.cos(k * theta[n]),
    Math.exp(-k * nu[n]) * Math.sin(k * theta[n]),
  ];
  const lambdaRe = Float64Array.from({ length: N }, (_, n) => power(n, 1)[0]);
  const lambdaIm = Float64Array.from({ length: N }, (_, n) => power(n, 1)[1]);
  return { H, N, inputRows, outputRows, lambdaRe, lambdaIm, power, D };
}

/** [rows, columns] -> [columns, rows] */
export function transposed(matrix, rows, columns) {
  const result = new Float32Array(matrix.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) result[j * rows + i] = matrix[i * columns + j];
  return result;
}
