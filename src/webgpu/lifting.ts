/**
 * Lifting: P timesteps as one. u [L, H] is [L/P, P H] without being moved, and with h the state before the P timesteps
 *
 *     h' = lambda^P h + B~ u~     B~ = [lambda^(P-1) B, ..., lambda B, B]
 *     y~ = Re(C~ h) + D~ u~       C~ = [C lambda; ...; C lambda^P]     D~ = Re(C lambda^(i-j) B) for i >= j, + D for i = j
 *
 * is the recurrence itself. A state is stored once for P timesteps: 12H + 16N/P bytes a timestep in place of 12H + 16N, for
 * about P H^2 flops more than 8HN. Rows end with whole groups of P: what is left of them runs without lifting. Which P pays is
 * for chooseLift.ts to say.
 */
import type { ForwardJob } from "../backend.js";
import { exp } from "../elementary.js";
import { eigenvalues, powerIm, powerRe } from "../params.js";
import { inputWidth, type LruStage, lruStages, outputWidth, type Program, poolOf } from "../program.js";
import { T } from "./tiles.js";

/** How many timesteps are taken as one, where a job has at least so many chunks of them. */
export interface Lifting {
  readonly lift: number;
  readonly leastChunks: number;
}

/** Flops that lifting adds to a token. */
export function liftingFlops(program: Program, P: number): number {
  return P > 1 ? lruStages(program).reduce((sum, { dModel: H }) => sum + (P + 1) * H * H, 0) : 0;
}

/** B~ [P H, N] of (re, im), C~ [N, P H] of (re, -im) and D~ transposed, [P H, P H]: in float64, rounded once. */
export function liftedWeights({ dModel: H, dState: N, params }: LruStage, P: number) {
  const { BRe, BIm, CRe, CIm, D } = params;
  const eigen = eigenvalues(params);
  const real = eigen.nuIm !== undefined;
  const width = P * H;
  const lifted = {
    B: new Float32Array(2 * width * N),
    C: new Float32Array(2 * width * N),
    D: new Float32Array(width ** 2),
  };
  /** Re(C lambda^d B) [P, dModel out, dModel in] */
  const kernel = new Float64Array(P * H * H);
  const [rowRe, rowIm] = [new Float64Array(H), new Float64Array(H)];
  for (let n = 0; n < N; n++) {
    const gamma = exp(params.gammaLog[n] as number);
    for (let i = 0; i < P; i++) {
      const [re, im] = [powerRe(eigen, n, i), powerIm(eigen, n, i)];
      const [nextRe, nextIm] = [powerRe(eigen, n, i + 1), powerIm(eigen, n, i + 1)];
      for (let j = 0; j < H; j++) {
        const [bRe, bIm] = [gamma * (BRe[n * H + j] as number), gamma * (BIm[n * H + j] as number)];
        const [cRe, cIm] = [CRe[j * N + n] as number, CIm[j * N + n] as number];
        const [liftedRe, liftedIm] = real ? [re * bRe, im * bIm] : [re * bRe - im * bIm, re * bIm + im * bRe];
        const b = 2 * (((P - 1 - i) * H + j) * N + n);
        [lifted.B[b], lifted.B[b + 1]] = [liftedRe, liftedIm];
        const c = 2 * (n * width + i * H + j);
        lifted.C[c] = real ? cRe * nextRe : cRe * nextRe - cIm * nextIm;
        lifted.C[c + 1] = -(real ? cIm * nextIm : cRe * nextIm + cIm * nextRe);
        [rowRe[j], rowIm[j]] = [liftedRe, liftedIm];
      }
      for (let o = 0; o < H; o++) {
        const row = kernel.subarray((i * H + o) * H, (i * H + o + 1) * H);
        addRow(row, CRe[o * N + n] as number, CIm[o * N + n] as number, rowRe, rowIm);
      }
    }
  }
  for (let i = 0; i < P; i++) {
    for (let j = 0; j <= i; j++) {
      for (let o = 0; o < H; o++) {
        for (let q = 0; q < H; q++) {
          const skip = i === j && o === q ? (D[o] as number) : 0;
          lifted.D[(j * H + q) * width + i * H + o] = (kernel[((i - j) * H + o) * H + q] as number) + skip;
        }
      }
    }
  }
  return lifted;
}

/** row += Re((cRe + i cIm) (re + i im)): the most of the work, N P H^2 times, and so a function of its own, which is optimised at once. */
function addRow(row: Float64Array, cRe: number, cIm: number, re: Float64Array, im: Float64Array): void {
  for (let j = 0; j < row.length; j++)
    row[j] = (row[j] as number) + cRe * (re[j] as number) - cIm * (im[j] as number);
}

/**
 * Whether lifting pays for a job, or for the one that it is the rest of: its tokens have no times, no resets, all give an output, and are
 * many. What is left of rows is not cut out of a GPUBuffer.
 */
export function isLifted(
  given: Pick<ForwardJob, "lengths" | "timesteps" | "every" | "resets" | "ports" | "whole">,
  { lift: P, leastChunks }: Lifting,
): boolean {
  const job = given.whole ?? given;
  if (P === 1 || job.timesteps || (job.every ?? 1) > 1 || job.resets?.some(({ length }) => length > 0))
    return false;
  const hasRest = job.lengths.some((length) => length % P > 0);
  const chunks = job.lengths.reduce((sum, length) => sum + Math.floor(length / P / T), 0);
  // What is left of the rows costs another way to the GPU and back.
  return !(hasRest && job.ports) && chunks >= leastChunks * (hasRest ? 4 : 1);
}

/** Runs what whole groups of P there are by `lifted`, and then what is left by `plain`. */
export async function runLifted(
  program: Program,
  job: ForwardJob,
  P: number,
  lifted: (job: ForwardJob) => Promise<void>,
  plain: (job: ForwardJob) => Promise<void>,
): Promise<void> {
  const { batch, seqLen, x, y, done } = job;
  const [inWidth, outWidth] = [inputWidth(program), outputWidth(program)];
  const lengths = job.lengths.map((length) => length % P);
  const heads = job.lengths.map((length) => length - (length % P));
  const tail = P - 1;
  // Copied first: y may be the memory of x.
  const rest = new (x.constructor as Float32ArrayConstructor)(batch * tail * inWidth);
  for (let row = 0; row < batch; row++) {
    const from = row * seqLen + (heads[row] as number);
    const tokens = x.subarray(from * inWidth, (from + (lengths[row] as number)) * inWidth);
    rest.set(tokens, row * tail * inWidth);
  }
  await lifted({ ...job, lengths: heads });
  if (lengths.every((length) => length === 0)) return;
  const pooled = poolOf(program) !== undefined;
  const given = new Float32Array(batch * (pooled ? 1 : tail) * outWidth);
  const reached = new Int32Array(batch);
  try {
    const own = { seqLen: tail, lengths, x: rest, y: given, done: reached, onProgress: undefined };
    await plain({ ...job, ...own });
  } finally {
    // What has been committed is kept, for whoever goes on from there.
    for (let row = 0; row < batch; row++) {
      const tokens = reached[row] as number;
      if (tokens === 0) {
        // The zeros past its outputs took the place of what is left of it to be read.
        const from = row * tail * inWidth;
        const left = rest.subarray(from, from + (lengths[row] as number) * inWidth);
        if (x.buffer === y.buffer) x.set(left, (row * seqLen + (heads[row] as number)) * inWidth);
        continue;
      }
      if (done) done[row] = (heads[row] as number) + tokens;
      const at = (row * y.length) / batch + (pooled ? 0 : (heads[row] as number) * outWidth);
      const from = row * (pooled ? 1 : tail) * outWidth;
      y.set(given.subarray(from, from + (pooled ? 1 : tokens) * outWidth), at);
    }
  }
}
