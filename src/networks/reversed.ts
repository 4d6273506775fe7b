/** Rows from their last tokens back, for backends that read forward only. */
import type { ForwardJob, Runner } from "../backend.js";

/** A job with `onto`: x in the other order, and the same for what comes of it. */
export async function forwardReversed(
  runner: Runner,
  job: ForwardJob & { readonly onto: Float32Array },
): Promise<void> {
  const { x, y, batch, seqLen, lengths, onto } = job;
  const width = x.length / (batch * seqLen);
  const back = new Float32Array(x.length);
  const turned = turnRows(x, lengths, width, seqLen);
  // Nothing is done for good before all is: y is written last.
  await runner.forward({ ...job, x: turned, y: back, onto: undefined, done: undefined });
  turnRows(back, lengths, width, seqLen).forEach((value, i) => {
    y[i] = (onto[i] as number) + value;
  });
}

/** values [batch, seqLen, width], the first lengths[row] tokens of each row in reverse, with zeros after them; a copy. */
export function turnRows(
  values: Float32Array,
  lengths: ArrayLike<number>,
  width: number,
  seqLen: number,
): Float32Array {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < lengths.length; row++) {
    let from = row * seqLen * width;
    for (let t = lengths[row] as number; t > 0; t--) {
      const to = (row * seqLen + t - 1) * width;
      for (let j = 0; j < width; j++) turned[to + j] = values[from++] as number;
    }
  }
  return turned;
}
