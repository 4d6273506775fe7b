/** From a layer or model back to a checkpoint. */
import { allocating, LinrecError } from "../errors.js";
import { writeSafetensors } from "../io/safetensors.js";
import type { BidirectionalLru } from "../layers/bidirectional.js";
import type { Lru } from "../lru.js";
import type { LruStage, Origin } from "../program.js";
import { fromFloat32, permute, type Tensor, typeName } from "../tensor.js";
import { checkObject, checkOptions } from "../validate.js";
import { fromLruParams } from "./lru.js";
import type { Model } from "./model.js";

export interface WriteModelOptions {
  /** Entries of the file's `__metadata__`, beside those it was read with. `linrec`, the model's spec, is always there. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/**
 * A layer or model as a .safetensors file: the names, orientation and dtypes of the checkpoint it was read from, bit for
 * bit, so that the framework it comes from loads it; a layer made from plain parameters under the names of lrnnx. The
 * metadata entry `linrec` holds the spec: `engine.model` reads the file without one. A bidirectional layer's tensors go by
 * "forward." and "backward.", and `engine.bidirectional` reads the file.
 *
 * Throws `invalid-argument` for what is no layer or model and for options, what `writeSafetensors` throws for metadata, and
 * `out-of-memory`.
 */
export function writeModel(
  model: Lru | Model | BidirectionalLru,
  options: WriteModelOptions = {},
): Uint8Array<ArrayBuffer> {
  const { program, directions } = (model ?? {}) as Partial<
    Pick<Lru, "program"> & Pick<BidirectionalLru, "directions">
  >;
  const programs = directions ? Object.entries(directions) : program ? [["", program] as const] : [];
  if (programs.length === 0) {
    const remedy = "Pass what engine.lru or engine.model gave; LruParams go through fromLruParams.";
    throw new LinrecError(
      "invalid-argument",
      `writeModel takes a layer or a model, got ${typeName(model)}. ${remedy}`,
    );
  }
  checkOptions("writeModel's options", options, ["metadata"]);
  if (options.metadata !== undefined) checkObject("writeModel's metadata", options.metadata, false);
  const metadata = Object.create(null) as Record<string, string>;
  const tensors = programs.flatMap(([prefix, { architecture, checkpoint, stages }]) => {
    Object.assign(metadata, { linrec: JSON.stringify({ architecture }) }, checkpoint?.metadata);
    const own = checkpoint
      ? checkpoint.tensors.map((origin): [string, Tensor] => [origin.name, restore(origin)])
      : [...fromLruParams((stages[0] as LruStage).params)];
    return own.map(([name, tensor]): [string, Tensor] => [prefix ? `${prefix}.${name}` : name, tensor]);
  });
  const { linrec } = metadata as { linrec: string };
  return writeSafetensors(tensors, { ...metadata, ...options.metadata, linrec });
}

function restore({ dtype, shape, data, axes }: Origin): Tensor {
  let values = data;
  if (axes) {
    const inverse = axes.map((_, axis) => axes.indexOf(axis));
    values = permute(
      data as Float32Array,
      axes.map((axis) => shape[axis] as number),
      inverse,
    );
  }
  const own = allocating("a tensor's values", () => fromFloat32(dtype, values));
  return { dtype, shape, data: own } as Tensor;
}
