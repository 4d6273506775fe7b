/** Runs a formulation that takes some rows, or some tokens of a row, at a time over all of them. */
import { fillInput, inputLength } from "../shapes.mjs";
import { portionOf } from "./choices.mjs";

/** The formulation as it is for this shape: the one that was chosen may be of a larger one. */
export function fitted(shape, formulation) {
  const portion = portionOf(shape, formulation);
  return { ...formulation, ...portion, passesState: portion.L < shape.seqLen };
}

/**
 * @param {{ upload, compute, release, drop? }} library
 *   upload(x of a portion): what `compute` takes; done once, not timed
 *   compute(input, state): { y: Float32Array, state } timed, up to y in JavaScript; `state` is undefined for zeros
 *   release(inputs); drop(state): where nobody else frees it
 */
export async function portionJob(shape, { rows, L }, { upload, compute, release, drop }) {
  const x = fillInput(new Float32Array(inputLength(shape)));
  const size = rows * L * shape.dModel;
  const inputs = [];
  for (let at = 0; at < x.length; at += size) inputs.push(await upload(x.subarray(at, at + size)));
  const piecesOfRow = shape.seqLen / L;
  const gathered = inputs.length > 1 ? new Float32Array(x.length) : undefined;
  let y;
  return {
    async run() {
      let state;
      for (let i = 0; i < inputs.length; i++) {
        const result = await compute(inputs[i], i % piecesOfRow === 0 ? undefined : state);
        state = result.state;
        if (drop && state && (i + 1) % piecesOfRow === 0) drop(state);
        if (gathered) gathered.set(result.y, i * size);
        else y = result.y;
      }
      y = gathered ?? y;
    },
    read: () => y,
    dispose: () => release(inputs),
  };
}
