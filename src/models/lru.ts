/** An LRU's parameters under a checkpoint's names. */
import { LinrecError } from "../errors.js";
import { checkTensor } from "../io/safetensors.js";
import { arraysOf, checkLruParams, type ParamName, paramShapes, type SizeName } from "../lruParams.js";
import type { LruParams } from "../program.js";
import { elementCount, type Tensor, typeName } from "../tensor.js";
import { show } from "../validate.js";
import { type Size, TensorReader } from "./tensors.js";

/** A parameter's name in a checkpoint: nuLog -> nu_log, BRe -> B_re, D -> D. */
function toSnakeCase(name: string): string {
  return name.replace(/(?!^)[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** nu_log, theta_log, theta, gamma_log, B_re, B_im, C_re, C_im, D */
export const tensorNames: readonly string[] = [...paramShapes.keys()].map(toSnakeCase);

/**
 * A layer's parameters from the tensors named `prefix` + nu_log, theta_log (or theta), gamma_log, B_re, B_im, C_re,
 * C_im, D; others are left alone. {@link fromLruParams} is the way back.
 * Throws `invalid-argument` for what is no Map of tensors, `wrong-dtype`, `shape-mismatch` and `detached` for one whose data is not
 * what it says, `unknown-model` naming all that is missing or misshapen, `non-finite` for a NaN or an infinity in a tensor or in what
 * it is the logarithm of, `unstable` for |lambda| >= 1, and `out-of-memory`.
 */
export function toLruParams(tensors: ReadonlyMap<string, Tensor>, prefix = ""): LruParams {
  if (typeName(tensors) !== "Map") {
    throw new LinrecError(
      "invalid-argument",
      `tensors must be a Map, as readSafetensors gives one; got ${show(tensors)}.`,
    );
  }
  const names = new Set(tensorNames.map((name) => prefix + name));
  const own = [...tensors].filter(([name]) => names.has(name));
  for (const entry of own) checkTensor(...entry);
  const reader = new TensorReader(new Map(own));
  const params = takeLru(reader, prefix);
  reader.finish("an LRU");
  checkLruParams(params, prefix);
  return params;
}

/** Takes an LRU's tensors from a checkpoint; the caller finishes the reader, then checks the values. */
export function takeLru(
  reader: TensorReader,
  prefix: string,
  dModel = reader.size(`${prefix}D`, 0),
): LruParams {
  const sizes: Record<SizeName, Size> = { dState: reader.size(`${prefix}nu_log`, 0), dModel };
  const phase = reader.has(`${prefix}theta`) && !reader.has(`${prefix}theta_log`) ? "theta" : "thetaLog";
  const params: Partial<Record<ParamName, Float32Array>> = {};
  for (const [name, shape] of paramShapes) {
    if ((name === "theta" || name === "thetaLog") && name !== phase) continue;
    params[name] = reader.take(
      prefix + toSnakeCase(name),
      shape.map((size) => sizes[size]),
    );
  }
  return params as LruParams;
}

/**
 * A layer's parameters as F32 tensors, named as in a checkpoint, for `writeSafetensors`. They share the caller's memory.
 * Throws what `engine.lru` rejects with for parameters. {@link toLruParams} is the way back.
 */
export function fromLruParams(params: LruParams, prefix = ""): Map<string, Tensor> {
  checkLruParams(params);
  const sizes = { dState: params.nuLog.length, dModel: params.D.length };
  return new Map(
    arraysOf(params).map(([name, data]) => {
      const shape = (paramShapes.get(name) ?? []).map((size) => sizes[size]);
      return [prefix + toSnakeCase(name), { dtype: "F32", shape, data }];
    }),
  );
}

/**
 * Tensors of one LRU whose names may be those of {@link LruParams}, and whose matrices may be flat: under a checkpoint's
 * names, and with the shape that nu_log and D give them. Throws `invalid-argument` for one that is there under both names.
 */
export function lruTensors(tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  const named = new Map<string, Tensor>();
  for (const [given, tensor] of tensors) {
    const name = paramShapes.has(given as ParamName) ? toSnakeCase(given) : given;
    if (named.has(name))
      throw new LinrecError("invalid-argument", `${name} is there twice, once as ${given}.`);
    named.set(name, tensor);
  }
  const length = (name: string) => named.get(name)?.data.length ?? 0;
  const sizes = { dState: length("nu_log"), dModel: length("D") };
  for (const [param, axes] of paramShapes) {
    const name = toSnakeCase(param);
    const tensor = named.get(name);
    const shape = axes.map((axis) => sizes[axis]);
    const flat = tensor?.shape.length === 1 && tensor.data.length === elementCount(shape);
    if (flat) named.set(name, { ...tensor, shape });
  }
  return named;
}
