/** What each kernel has to do in a forward: bytes as the library counts them, and flops where they are of an LRU or a dense stage. */

/** Of a token of a bare LRU; what lifting adds to it is not counted. */
const flops = {
  projectScan: ({ dModel: H, dState: N }) => 4 * H * N + 8 * N,
  oneChunk: ({ dModel: H, dState: N }) => 8 * H * N + 8 * N + 2 * H,
  output: ({ dModel: H, dState: N }) => 4 * H * N + 2 * H,
  liftedOutput: ({ dModel: H, dState: N }) => 4 * H * N + 2 * H,
};

/** @param {Map<string, { dispatches: number, bytes: number }>} traffic by kernel, of the shape's program */
export function countsOf(kernel, shape, traffic) {
  const { bytes } = traffic.get(kernel) ?? {};
  const token = shape.layers ? undefined : flops[kernel]?.(shape);
  return { bytes, flops: token === undefined ? undefined : shape.batch * shape.seqLen * token };
}
