/** What each kernel of an LRU has to do for a token: flops, and bytes read and written once. */

/** Tokens of a chunk, and so of a carry. */
const T = 32;

const kernels = {
  projectScan: ({ dModel: H, dState: N }) => ({
    flops: 4 * H * N + 8 * N,
    bytes: 4 * H + 8 * N + (8 * N) / T,
  }),
  carryScan: ({ dState: N }) => ({ flops: (16 * N) / T, bytes: (16 * N) / T }),
  output: ({ dModel: H, dState: N }) => ({ flops: 4 * H * N + 2 * H, bytes: 8 * H + 8 * N + (8 * N) / T }),
};

/** Undefined for kernels that are not an LRU's. */
export function countsOf(kernel, shape) {
  const tokens = shape.batch * shape.seqLen;
  const { flops, bytes } = kernels[kernel]?.(shape) ?? {};
  return flops === undefined ? undefined : { flops: tokens * flops, bytes: tokens * bytes };
}
