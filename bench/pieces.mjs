/**
 * A long forward as the sum of its pieces: what a tenth of a second takes on a machine that is calm for a few hundredths.
 *
 * forward(a ⧺ b) is forward(a), then forward(b | state), to the bit, wherever one cuts. So equal parts of each row, one after
 * the other, row after row, are the forward, and each is short enough for a calm stretch (calm.mjs). The median of the calm
 * ones times their number is the most that a calm forward takes: every piece pays the fixed costs of a forward.
 */
import { flopsOf } from "./shapes.mjs";

/** { tokens, count }: as few equal parts of each row as cost `flops` or less, or single tokens. */
export function cut(shape, flops) {
  const { batch, seqLen } = shape;
  const isSmall = (parts) => flopsOf(shape) / (batch * parts) <= flops;
  let parts = 1;
  while (parts < seqLen && !(seqLen % parts === 0 && isSmall(parts))) parts++;
  return { tokens: seqLen / parts, count: batch * parts };
}

/**
 * Runs one piece at each call, through all of x and y and round again.
 * @param {(x: Float32Array, options: object) => Promise<{ state: object }>} forward
 * @param {Float32Array} x [batch, seqLen, dModel]
 * @param {Float32Array} out the same
 */
export function walk(forward, x, out, { batch, seqLen, dModel }, tokens) {
  let at = 0;
  let state;
  return async () => {
    if (at % seqLen === 0) state = undefined; // a row begins
    const part = (array) => array.subarray(at * dModel, (at + tokens) * dModel);
    ({ state } = await forward(part(x), { state, out: part(out) }));
    at = (at + tokens) % (batch * seqLen);
  };
}
