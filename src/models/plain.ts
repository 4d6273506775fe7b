/** Checkpoints that are no files: objects and Maps of arrays. */
import { allocating, LinrecError } from "../errors.js";
import type { LruParams, Network } from "../program.js";
import {
  arrayClass,
  type Dtype,
  dtypes,
  elementCount,
  isDetached,
  showShape,
  type Tensor,
  typeName,
} from "../tensor.js";
import { show } from "../validate.js";
import { readLru } from "./lrnnxLru.js";
import { lruTensors } from "./lru.js";
import { list } from "./tensors.js";

/** Numbers in nested arrays, all of an axis of one length; they are rounded to float32. */
export type NestedNumbers = readonly (number | NestedNumbers | Float32Array | Float64Array)[];

/**
 * A tensor as plain data: nested arrays, a typed array of one axis, or values with their shape, row-major. `dtype` is that
 * of the array if left out; it is needed for raw F16 and BF16 bits (Uint16Array).
 */
export type PlainTensor =
  | NestedNumbers
  | Float32Array
  | Float64Array
  | Tensor
  | {
      readonly dtype?: Dtype | undefined;
      readonly shape: readonly number[];
      readonly data: readonly number[] | Float32Array | Float64Array | Uint16Array;
    };

/** By the names of a checkpoint; what is undefined is left out. */
export type PlainTensors =
  | ReadonlyMap<string, PlainTensor>
  | { readonly [name: string]: PlainTensor | undefined };

/**
 * An LRU's arrays: camelCase (`nuLog`) or snake_case (`nu_log`), nested or flat; a Map may have a prefix to its names. Flat ones
 * under camelCase names are those of {@link LruParams}: no doubles.
 */
export type PlainLru = PlainTensors & {
  readonly [Name in Exclude<keyof LruParams, "D" | "theta">]?: Exclude<PlainTensor, Float64Array> | undefined;
};

/** Of a tensor: more would be an array that holds itself. */
const MOST_AXES = 8;

const ownDtypes: ReadonlyMap<string | undefined, Dtype> = new Map([
  ["Float32Array", "F32"],
  ["Float64Array", "F64"],
]);

/** Throws `wrong-dtype` for what is no object, and `invalid-argument` naming every entry that is no array of numbers. */
export function toTensors(source: PlainTensors): Map<string, Tensor> {
  const type = typeName(source);
  if (type !== "Object" && type !== "Map") {
    const expected = "bytes, a URL, a File, a Blob, or an object or Map of arrays by name";
    throw new LinrecError("wrong-dtype", `Expected a checkpoint: ${expected}; got ${type}.`);
  }
  const entries = type === "Map" ? (source as ReadonlyMap<unknown, unknown>) : Object.entries(source);
  const tensors = new Map<string, Tensor>();
  const faults: string[] = [];
  for (const [key, value] of entries) {
    const name = String(key);
    if (value === undefined) continue;
    const tensor = allocating("a tensor's values", () => toTensor(value));
    if (typeof tensor === "string") faults.push(name + tensor);
    else tensors.set(name, tensor);
  }
  if (faults.length === 0) return tensors;
  const remedy = "Give nested arrays, a Float32Array, a Float64Array, or { shape, data, dtype? }";
  throw new LinrecError("invalid-argument", `${remedy}; ${list("these are not such", faults)}.`);
}

/** One LRU from arrays of any kind. Throws what {@link toTensors} and {@link readLru} say. */
export function toLruProgram(source: PlainTensors): Network {
  return readLru({ tensors: lruTensors(toTensors(source)) });
}

/** A tensor, or what is wrong with it: to be read behind its name. */
function toTensor(value: unknown): Tensor | string {
  if (isArray(value)) return fromArray(value);
  const { dtype, shape, data } = (value ?? {}) as { dtype?: Dtype; shape?: unknown; data?: unknown };
  if (!isArray(data)) return ` is ${show(value)}`;
  if (!Array.isArray(shape) || !shape.every((size) => Number.isSafeInteger(size) && (size as number) >= 0)) {
    return ".shape is no list of sizes";
  }
  const sizes = shape as readonly number[];
  const asked = dtypes.get(dtype ?? "");
  if (dtype !== undefined && !asked) return `.dtype is ${show(dtype)}`;
  // With a dtype the data is taken as it is: raw bits of F16, or integers, for the architecture to judge.
  const raw = asked && asked.array === arrayClass(data);
  const flat = raw ? ({ dtype, data } as Tensor) : fromArray(data);
  if (typeof flat === "string") return `.data${flat}`;
  if (asked && flat.dtype !== dtype)
    return ` is ${dtype}, whose data is a ${asked.array}; got ${typeName(data)}`;
  const needed = elementCount(sizes);
  if (flat.data.length !== needed)
    return ` has ${flat.data.length} values; shape ${showShape(sizes)} needs ${needed}`;
  return { ...flat, shape: [...sizes] };
}

function isArray(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || arrayClass(value) !== undefined;
}

function fromArray(value: ArrayLike<unknown>): Tensor | string {
  const type = arrayClass(value);
  if (type !== undefined) {
    const data = value as Float32Array;
    if (isDetached(data.buffer)) return " is detached: its memory was transferred away";
    const dtype = ownDtypes.get(type);
    return dtype ? ({ dtype, shape: [data.length], data } as Tensor) : ` is a ${type} without dtype`;
  }
  const shape: number[] = [];
  for (let part: unknown = value; isArray(part); part = part[0]) {
    if (shape.push(part.length) > MOST_AXES) return ` has more than ${MOST_AXES} axes`;
  }
  const numbers: number[] = [];
  const fault = flatten(value, shape, numbers);
  return fault ?? { dtype: "F32", shape, data: Float32Array.from(numbers) };
}

/** Appends an array's numbers, or says what and where the first is that does not fit its shape. */
function flatten(value: unknown, [size, ...inner]: readonly number[], numbers: number[]): string | undefined {
  if (size === undefined) {
    if (typeof value !== "number") return ` is ${show(value)}`;
    numbers.push(value);
    return undefined;
  }
  if (!isArray(value)) return ` is ${show(value)}`;
  if (value.length !== size) return ` has ${value.length} values, the first of its axis ${size}`;
  for (let i = 0; i < size; i++) {
    const fault = flatten(value[i], inner, numbers);
    if (fault !== undefined) return `[${i}]${fault}`;
  }
  return undefined;
}
