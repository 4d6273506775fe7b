/** What each kernel may write to: see the comment before it in assembly/. Everything else is a fault. */
import type { Kernels } from "../../src/cpu/instantiate.js";

/** `bytes` at an address, `rows` times, `stride` bytes apart. */
export interface Output {
  readonly at: number;
  readonly bytes: number;
  readonly rows?: number;
  readonly stride?: number;
}

/** As in assembly/timedScan.ts. */
const TIMED_TABLES = 8;

const row = (groups: number) => 32 * groups;
const carryRow = (groups: number) => 64 * groups;
const rounded = (at: number, groups = 1): Output => ({ at, bytes: row(Math.min(2, groups)) });
const chunks = (tokens: number, k0: number, chunk: number) => Math.ceil((k0 + tokens) / chunk);

export const kernelWrites: {
  readonly [Name in keyof Kernels]: (...args: Parameters<Kernels[Name]>) => readonly Output[];
} = {
  add: (at, _a, _b, count) => [{ at, bytes: 4 * count }],
  addCarry: (at, _powers, _carries, tokens, _k0, _chunk, groups) => [{ at, bytes: tokens * row(groups) }],
  addRows: (at, stride, _x, _xStride, bytes, rows) => [{ at, bytes, rows, stride }],
  batchNorm: (at, _x, _mean, _factor, _bias, tokens, width) => [{ at, bytes: 4 * tokens * width }],
  carryScan: (carries, carry, stateLoc, _loc, _lambdaT, tokens, k0, chunk, groups) => [
    { at: carries, bytes: chunks(tokens, k0, chunk) * row(groups) },
    { at: carry, bytes: carryRow(groups) },
    { at: stateLoc, bytes: row(groups) },
  ],
  copyRows: (at, stride, _x, _xStride, bytes, rows) => [{ at, bytes, rows, stride }],
  dense: (at, stride, _x, _xStride, _W, _b, _ones, rows, _in, width) => [
    { at, bytes: 4 * width, rows, stride },
  ],
  embedding: (at, _x, _table, tokens, width) => [{ at, bytes: 4 * tokens * width }],
  gelu: (at, _x, _exact, count) => [{ at, bytes: 4 * count }],
  glu: (at, _x, _gate, _silu, count) => [{ at, bytes: 4 * count }],
  layerNorm: (at, _x, stride, _scale, _bias, _epsilon, _centred, rows, width) => [
    { at, bytes: 16 * Math.ceil(width / 4), rows, stride },
  ],
  logSoftmax: (at, _x, stride, rows, width) => [{ at, bytes: 4 * width, rows, stride }],
  output: (at, stride, _h, _C, _D, _u, _uStride, rows, _hWidth, width) => [
    { at, bytes: 4 * width, rows, stride },
  ],
  poolCarry: (carry, stateLoc, _sums, _tokens, _k0, _chunk, width) => [
    { at: carry, bytes: 8 * width },
    { at: stateLoc, bytes: 8 * width },
  ],
  poolLocal: (at, _x, _stateLoc, tokens, k0, chunk, width) => [
    { at, bytes: 8 * width * chunks(tokens, k0, chunk) },
  ],
  poolResult: (at, _carry, _stateLoc, _count, width) => [{ at, bytes: 4 * width }],
  poolStep: (y, _x, sums, carry, stateLoc, stride, _ks, _counts, _chunk, rows, width) => [
    { at: y, bytes: 4 * rows * width },
    { at: sums, bytes: 8 * width },
    { at: carry, bytes: 8 * width, rows, stride },
    { at: stateLoc, bytes: 8 * width, rows, stride },
  ],
  projectScan: (loc, last, _u, _uStride, _B, _lambda, _stateLoc, tokens, _k0, _chunk, _dModel, groups) => [
    { at: loc, bytes: tokens * row(groups) },
    rounded(last, groups),
  ],
  realScan: (h, _lambda, _stateLoc, _zeros, tokens, _k0, _chunk, groups) => [
    { at: h, bytes: tokens * row(groups) },
  ],
  // biome-ignore format: the kernel's arguments
  stepScan: (h, last, carry, stateLoc, stride, _ks, _lambdaT, _powers, _chunk, rows, groups) => [
    { at: h, bytes: rows * row(groups) },
    rounded(last),
    { at: carry, bytes: carryRow(groups), rows, stride },
    { at: stateLoc, bytes: row(groups), rows, stride },
  ],
  // biome-ignore format: the kernel's arguments
  tiles: (
    y, h, last, carry, stateLoc, _u, _uStride, _B, _lambdaT, _powers, _C, _D, tokens, _k0, chunk, _dModel, groups, width,
  ) => [
    { at: y, bytes: y && 4 * width * tokens },
    { at: h, bytes: (y ? Math.min(tokens, chunk) : tokens) * row(groups) },
    rounded(last, groups),
    { at: carry, bytes: carryRow(groups) },
    { at: stateLoc, bytes: row(groups) },
  ],
  timedScan: (h, carry, lambda, _rates, _dt, tokens, groups, real) => [
    { at: h, bytes: tokens * row(groups) },
    { at: carry, bytes: carryRow(groups) },
    { at: lambda, bytes: TIMED_TABLES * ((real ? 2 : 1) * carryRow(groups) + 4) },
  ],
};
