/** What contenders are checked against, in Node or in a page. */
import { createEngine } from "./linrec.mjs";
import { fillInput, inputLength, paramsOf } from "./shapes.mjs";

/** Against float64, relative to the largest |y|: what any float32 implementation must keep. */
export const TOLERANCE = 1e-3;

/** y of a small shape, in float64. */
export async function referenceOf(shape) {
  const engine = await createEngine({ backend: "reference" });
  const layer = await engine.lru(paramsOf(shape));
  const { y } = await layer.forward(fillInput(new Float32Array(inputLength(shape))), { batch: shape.batch });
  await engine.dispose();
  return y;
}
