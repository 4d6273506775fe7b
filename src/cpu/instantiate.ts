/** The WASM kernels in a memory: their signatures (documented in assembly/), and how to get them. */
import { LinrecError, messageOf } from "../errors.js";

type Pointer = number;

/** The exports of assembly/index.ts. Pointers and strides are bytes, counts are elements. */
export interface Kernels {
  add(y: Pointer, a: Pointer, b: Pointer, count: number): void;
  addCarry(
    h: Pointer,
    powers: Pointer,
    carries: Pointer,
    tokens: number,
    k0: number,
    chunk: number,
    groups: number,
    real?: boolean,
  ): void;
  addRows(y: Pointer, yStride: number, x: Pointer, xStride: number, rowBytes: number, tokens: number): void;
  batchNorm(
    y: Pointer,
    x: Pointer,
    mean: Pointer,
    factor: Pointer,
    bias: Pointer,
    tokens: number,
    width: number,
  ): void;
  // biome-ignore format: the argument order of the kernel, on lines that match its declaration
  carryScan(
    carries: Pointer, carry: Pointer, stateLoc: Pointer, loc: Pointer, lambdaT: Pointer,
    tokens: number, k0: number, chunk: number, groups: number, real?: boolean,
  ): void;
  copyRows(y: Pointer, yStride: number, x: Pointer, xStride: number, rowBytes: number, tokens: number): void;
  // biome-ignore format: as above
  dense(
    y: Pointer, yStride: number, x: Pointer, xStride: number, W: Pointer, b: Pointer, ones: Pointer,
    tokens: number, inWidth: number, outWidth: number,
  ): void;
  // biome-ignore format: as above
  embedding(
    y: Pointer, x: Pointer, table: Pointer, tokens: number, width: number, vocabulary: number,
  ): void;
  gelu(y: Pointer, x: Pointer, exact: boolean, count: number): void;
  glu(y: Pointer, x: Pointer, gate: Pointer, silu: boolean, count: number): void;
  // biome-ignore format: as above
  layerNorm(
    y: Pointer, x: Pointer, stride: number, scale: Pointer, bias: Pointer,
    epsilon: number, centred: boolean, tokens: number, width: number,
  ): void;
  logSoftmax(y: Pointer, x: Pointer, stride: number, tokens: number, width: number, group: number): void;
  // biome-ignore format: as above
  output(
    y: Pointer, yStride: number, h: Pointer, C: Pointer, D: Pointer, u: Pointer, uStride: number,
    tokens: number, hWidth: number, outWidth: number,
  ): void;
  // biome-ignore format: as above
  poolCarry(
    carry: Pointer, stateLoc: Pointer, sums: Pointer,
    tokens: number, k0: number, chunk: number, width: number, isMax: boolean,
  ): void;
  // biome-ignore format: as above
  poolLocal(
    sums: Pointer, x: Pointer, stateLoc: Pointer,
    tokens: number, k0: number, chunk: number, width: number, isMax: boolean,
  ): void;
  // biome-ignore format: as above
  poolResult(y: Pointer, carry: Pointer, stateLoc: Pointer, count: number, width: number, isMax: boolean): void;
  // biome-ignore format: as above
  poolStep(
    y: Pointer, x: Pointer, sums: Pointer, carry: Pointer, stateLoc: Pointer, stateStride: number, ks: Pointer, counts: Pointer,
    chunk: number, rows: number, width: number, isMax: boolean,
  ): void;
  // biome-ignore format: as above
  projectScan(
    loc: Pointer, last: Pointer, u: Pointer, uStride: number, B: Pointer, lambda: Pointer, stateLoc: Pointer,
    tokens: number, k0: number, chunk: number, dModel: number, groups: number,
  ): void;
  // biome-ignore format: as above
  realScan(
    h: Pointer, lambda: Pointer, stateLoc: Pointer, zeros: Pointer, tokens: number, k0: number, chunk: number, groups: number,
  ): void;
  // biome-ignore format: as above
  stepScan(
    h: Pointer, rounded: Pointer, carry: Pointer, stateLoc: Pointer, stateStride: number, ks: Pointer,
    lambdaT: Pointer, powers: Pointer, chunk: number, rows: number, groups: number, real?: boolean,
  ): void;
  // biome-ignore format: as above
  tiles(
    y: Pointer, h: Pointer, rounded: Pointer, carry: Pointer, stateLoc: Pointer, u: Pointer, uStride: number, B: Pointer,
    lambdaT: Pointer, powers: Pointer, C: Pointer, D: Pointer,
    tokens: number, k0: number, chunk: number, dModel: number, groups: number, outWidth: number,
  ): void;
  // biome-ignore format: as above
  timedScan(
    h: Pointer, carry: Pointer, lambda: Pointer, rates: Pointer, dt: Pointer, tokens: number, groups: number, real?: boolean,
  ): void;
}

/** WASM pages of 64 KiB that a module's memory may grow to: all of 32-bit memory. */
const MAX_PAGES = 65536;

/**
 * A memory of `pages` x 64 KiB. The kernels want its maximum stated, and some systems refuse a large one (iOS a shared one
 * of 2 GiB): the maximum is halved until it is taken.
 */
export function createMemory(shared: boolean, pages: number): WebAssembly.Memory {
  for (let maximum = MAX_PAGES; ; maximum /= 2) {
    try {
      return new WebAssembly.Memory({ initial: pages, maximum, shared });
    } catch (error) {
      if (maximum / 2 < Math.max(pages, 1024)) {
        throw new LinrecError(
          "out-of-memory",
          `No WASM memory of ${pages * 64} KiB could be had: ${messageOf(error)}`,
          {
            cause: error,
          },
        );
      }
    }
  }
}

/** Its kernels, in an object to which those of another module may be added. */
export async function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<Kernels> {
  const instance = await WebAssembly.instantiate(module, { env: { memory } });
  return { ...instance.exports } as unknown as Kernels;
}
