/** A bare LRU layer as a program, and its parameters under a checkpoint's names. */
import { exp } from "../elementary.js";
import { allocating, LinrecError } from "../errors.js";
import { checkTensor } from "../io/safetensors.js";
import { elementCount, type Tensor, typeName } from "../io/tensor.js";
import type { LruParams, Program } from "../program.js";
import { checkFinite, checkFloat32, checkObject, show } from "../validate.js";
import { type Size, TensorReader } from "./tensors.js";

type ParamName = keyof LruParams;
type SizeName = "dState" | "dModel";

/** Every parameter and its shape. thetaLog and theta stand for each other: a layer has one of them. */
const paramShapes: ReadonlyMap<ParamName, readonly SizeName[]> = new Map([
  ["nuLog", ["dState"]],
  ["thetaLog", ["dState"]],
  ["theta", ["dState"]],
  ["gammaLog", ["dState"]],
  ["BRe", ["dState", "dModel"]],
  ["BIm", ["dState", "dModel"]],
  ["CRe", ["dModel", "dState"]],
  ["CIm", ["dModel", "dState"]],
  ["D", ["dModel"]],
]);

/**
 * One LRU layer: x, y [tokens, dModel]. The arrays are copied.
 *
 * Throws `invalid-argument`, `wrong-dtype`, `detached` and `shape-mismatch` for what is no LRU's parameters,
 * `non-finite` for a NaN or an infinity in an array or in what it is the logarithm of, `unstable` for |lambda| >= 1.
 */
export function lruProgram(params: LruParams): Program {
  checkLruParams(params);
  const copy = allocating("a layer's parameters", () =>
    Object.fromEntries(arraysOf(params).map(([name, values]) => [name, new Float32Array(values)])),
  );
  return programOf(copy as unknown as LruParams, "lru");
}

/** The program of parameters that have been checked and are nobody else's. */
export function programOf(params: LruParams, name: string): Program {
  const [dModel, dState] = [params.D.length, params.nuLog.length];
  return {
    architecture: "lrnnx/lru",
    slots: [dModel, dModel],
    stages: [{ kind: "lru", name, src: 0, dst: 1, dModel, dState, params }],
    output: 1,
  };
}

/**
 * Throws what {@link lruProgram} says.
 * @param prefix stands before the arrays' names in messages: "encoder.layers_0.seq."
 */
export function checkLruParams(params: LruParams, prefix = ""): void {
  checkObject("LruParams (nuLog, thetaLog, gammaLog, BRe, BIm, CRe, CIm and D)", params);
  if ((params.theta === undefined) === (params.thetaLog === undefined)) {
    const came = params.theta === undefined ? "neither thetaLog nor theta" : "both thetaLog and theta";
    throw new LinrecError("invalid-argument", `LruParams has ${came}; give exactly one of them, [dState].`);
  }
  checkArrays(params, prefix);
  checkLengths(params, prefix);
  checkValues(params, prefix);
}

function checkArrays(params: LruParams, prefix: string): void {
  for (const name of paramShapes.keys()) {
    const values: unknown = params[name];
    if (values === undefined && (name === "theta" || name === "thetaLog")) continue;
    checkFloat32(prefix + name, values, "a Float32Array, row-major");
  }
}

function checkLengths(params: LruParams, prefix: string): void {
  const sizes = { dState: params.nuLog.length, dModel: params.D.length };
  const source = `dState is ${sizes.dState} (the length of nuLog), dModel is ${sizes.dModel} (the length of D)`;
  if (sizes.dState === 0 || sizes.dModel === 0) {
    throw new LinrecError("shape-mismatch", `${prefix}${source}; both must be at least 1.`);
  }
  for (const [name, values] of arraysOf(params)) {
    const shape = paramShapes.get(name) ?? [];
    const expected = elementCount(shape.map((size) => sizes[size]));
    if (values.length === expected) continue;
    throw new LinrecError(
      "shape-mismatch",
      `${prefix}${name} has ${values.length} values; [${shape.join(", ")}] needs ${expected}: ${source}.`,
    );
  }
}

function checkValues(params: LruParams, prefix: string): void {
  for (const [name, values] of arraysOf(params)) {
    checkFinite(prefix + name, values);
    if (name !== "thetaLog" && name !== "gammaLog") continue;
    const large = values.findIndex((value) => !Number.isFinite(Math.fround(exp(value))));
    if (large >= 0) {
      const remedy = name === "thetaLog" ? "pass the phases as `theta`" : "take its logarithm";
      throw new LinrecError(
        "non-finite",
        `${prefix}${name}[${large}] is ${values[large]}, and exp of it is no finite float32. If it is not a logarithm, ${remedy}.`,
      );
    }
  }
  const unstable = params.nuLog.findIndex((nuLog) => exp(-exp(nuLog)) >= 1);
  if (unstable >= 0) {
    throw new LinrecError(
      "unstable",
      `${prefix}nuLog[${unstable}] is ${params.nuLog[unstable]}, so that |lambda| = exp(-exp(nuLog)) is 1 and state ${unstable} ` +
        "would never decay; nuLog must be above -37.4.",
    );
  }
}

/** The arrays that are there, in a fixed order. */
function arraysOf(params: LruParams): [ParamName, Float32Array][] {
  return [...paramShapes.keys()].flatMap((name) => {
    const values = params[name];
    return values ? [[name, values] as [ParamName, Float32Array]] : [];
  });
}

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
