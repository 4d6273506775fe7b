/** An LRU's parameters: their shapes, what is asked of them, and the program that they are. */
import { exp } from "./elementary.js";
import { allocating, LinrecError } from "./errors.js";
import type { LruParams, Program } from "./program.js";
import { elementCount } from "./tensor.js";
import { checkFinite, checkFloat32, checkObject } from "./validate.js";

export type ParamName = keyof LruParams;
export type SizeName = "dState" | "dModel";

/** Every parameter and its shape. thetaLog and theta stand for each other: a layer has one of them. */
export const paramShapes: ReadonlyMap<ParamName, readonly SizeName[]> = new Map([
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
export function arraysOf(params: LruParams): [ParamName, Float32Array][] {
  return [...paramShapes.keys()].flatMap((name) => {
    const values = params[name];
    return values ? [[name, values] as [ParamName, Float32Array]] : [];
  });
}
