/** A tensor of a checkpoint: raw values with a dtype of the safetensors format and a shape, row-major. */
import { allocating, LinrecError } from "./errors.js";

/**
 * What holds each dtype's values. JavaScript has no 16-bit floats everywhere: F16 and BF16 stay raw bits, so that a
 * round trip is exact ({@link toFloat32} widens them). BOOL is one byte each, 0 or 1.
 */
export interface TensorArrays {
  F64: Float64Array;
  F32: Float32Array;
  F16: Uint16Array;
  BF16: Uint16Array;
  I64: BigInt64Array;
  U64: BigUint64Array;
  I32: Int32Array;
  U32: Uint32Array;
  I16: Int16Array;
  U16: Uint16Array;
  I8: Int8Array;
  U8: Uint8Array;
  BOOL: Uint8Array;
}

export type Dtype = keyof TensorArrays;

/** `data` holds product(shape) values, row-major; a scalar has shape []. `dtype` tells which array `data` is. */
export type Tensor = {
  [D in Dtype]: { readonly dtype: D; readonly shape: readonly number[]; readonly data: TensorArrays[D] };
}[Dtype];

type TensorArray = TensorArrays[Dtype];

interface DtypeInfo {
  readonly name: Dtype;
  readonly bytes: number;
  readonly create: (buffer: ArrayBuffer) => TensorArray;
  /** The name of the typed array's class, which is the same in every realm. */
  readonly array: string;
}

/** In the order in which the format's own writer lays out a file: widest first, so that every tensor is aligned. */
const dtypeList = (
  [
    ["U64", BigUint64Array],
    ["I64", BigInt64Array],
    ["F64", Float64Array],
    ["F32", Float32Array],
    ["U32", Uint32Array],
    ["I32", Int32Array],
    ["BF16", Uint16Array],
    ["F16", Uint16Array],
    ["U16", Uint16Array],
    ["I16", Int16Array],
    ["I8", Int8Array],
    ["U8", Uint8Array],
    ["BOOL", Uint8Array],
  ] as const
).map(
  ([name, Values]): DtypeInfo => ({
    name,
    bytes: Values.BYTES_PER_ELEMENT,
    create: (buffer) => new Values(buffer),
    array: Values.name,
  }),
);

/** A Map, so that no name in a file ("__proto__") can reach a prototype. */
export const dtypes: ReadonlyMap<string, DtypeInfo> = new Map(dtypeList.map((info) => [info.name, info]));

/** Dtypes that the format knows and linrec does not read. */
export const otherDtypes: ReadonlySet<string> = new Set(
  "F4 F6_E2M3 F6_E3M2 F8_E4M3 F8_E4M3FNUZ F8_E5M2 F8_E5M2FNUZ F8_E8M0 C64".split(" "),
);

/** The number of values of a shape, or NaN when it is not a safe integer. */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const size of shape) {
    count *= size;
    if (!Number.isSafeInteger(count)) return Number.NaN;
  }
  return count;
}

/** "[2, 3]" */
export function showShape(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** "Float32Array" for one of any realm (`instanceof` is false across realms); undefined for what is no typed array. */
export function arrayClass(value: unknown): string | undefined {
  return ArrayBuffer.isView(value)
    ? (value as unknown as { [Symbol.toStringTag]?: string })[Symbol.toStringTag]
    : undefined;
}

/** A short name of a value's type, for messages. */
export function typeName(value: unknown): string {
  if (value === null || typeof value !== "object") return value === null ? "null" : typeof value;
  return arrayClass(value) ?? Object.prototype.toString.call(value).slice("[object ".length, -1);
}

/** True when the memory was transferred away. `ArrayBuffer.detached` is not everywhere yet; a view of it throws everywhere. */
export function isDetached(buffer: ArrayBufferLike): boolean {
  if (buffer.byteLength > 0) return false;
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}

/** Throws `detached`. */
export function checkAttached(what: string, buffer: ArrayBufferLike): void {
  if (!isDetached(buffer)) return;
  throw new LinrecError(
    "detached",
    `${what} is detached: its memory was transferred away. Pass a copy, or transfer a copy.`,
  );
}

/**
 * A tensor's values as a Float32Array of their own: F16 and BF16 widen exactly, F64 is rounded to nearest.
 * Throws `wrong-dtype` for integers and BOOL, and for what is no tensor, and `out-of-memory`.
 */
export function toFloat32(tensor: Tensor): Float32Array<ArrayBuffer> {
  return allocating("a tensor's values", () => widened(tensor));
}

function widened(tensor: Tensor): Float32Array<ArrayBuffer> {
  const { dtype, data } = Object(tensor) as Tensor;
  const isTensor = data && arrayClass(data) === dtypes.get(dtype)?.array;
  switch (isTensor && dtype) {
    case "F32":
    case "F64":
      return new Float32Array(data as Float32Array | Float64Array);
    case "F16":
      return Float32Array.from(data as Uint16Array, halfToNumber);
    case "BF16": {
      const bits = new Uint32Array(data.length);
      for (let i = 0; i < bits.length; i++) bits[i] = (data[i] as number) << 16;
      return new Float32Array(bits.buffer);
    }
    default:
      throw new LinrecError(
        "wrong-dtype",
        `toFloat32 takes a tensor { dtype, shape, data } of F32, F64, F16 or BF16; got ${isTensor ? dtype : typeName(tensor)}.`,
      );
  }
}

/** IEEE 754 binary16 */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The way back from {@link toFloat32}, exact for values that came from the dtype. F32 is not copied. */
export function fromFloat32(dtype: Dtype, values: Float32Array | Float64Array): TensorArray {
  if (dtype === "F32") return values as Float32Array;
  if (dtype === "F64") return Float64Array.from(values);
  const bits = new Uint32Array(Float32Array.from(values).buffer);
  return Uint16Array.from(bits, dtype === "F16" ? toHalf : (word) => word >>> 16);
}

/** The bits of a float32 that is a binary16 to the bits of that. */
function toHalf(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const exponent = ((word >>> 23) & 255) - 112;
  const fraction = word & 0x7fffff;
  // Below 2^-14 the leading 1, which float32 does not write, becomes a bit of the fraction.
  return (
    sign | (exponent > 0 ? (exponent << 10) | (fraction >>> 13) : ((1 << 23) | fraction) >>> (14 - exponent))
  );
}

/** Row-major values of `shape` with the axes in another order: of an array [2, 3], axes [1, 0] make its transpose, [3, 2]. */
export function permute(
  values: Float32Array,
  shape: readonly number[],
  axes: readonly number[],
): Float32Array {
  const result = allocating("a tensor's values", () => new Float32Array(values.length));
  const sizes = axes.map((axis) => shape[axis] as number);
  const strides = axes.map((axis) => elementCount(shape.slice(axis + 1)));
  const index = sizes.map(() => 0);
  for (let to = 0, from = 0; to < result.length; to++) {
    result[to] = values[from] as number;
    for (let i = axes.length - 1; i >= 0; i--) {
      const [size, stride] = [sizes[i] as number, strides[i] as number];
      from += stride;
      if (++(index[i] as number) < size) break;
      from -= size * stride;
      index[i] = 0;
    }
  }
  return result;
}
