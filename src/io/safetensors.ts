/**
 * The .safetensors format: 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes without a
 * gap. Files come from strangers: reading is linear in time, keeps at most a copy of the data beside the input, and
 * refuses whatever breaks the format.
 */
import { allocating, LinrecError } from "../errors.js";
import {
  arrayClass,
  checkAttached,
  type Dtype,
  dtypes,
  elementCount,
  otherDtypes,
  showShape,
  type Tensor,
  typeName,
} from "../tensor.js";
import { checkObject, show } from "../validate.js";
import { bytesOf, decodeUtf8, encodeUtf8 } from "./bytes.js";
import { fail, type Header, type HeaderEntry, parseHeader, quote } from "./header.js";

export { type Dtype, type Tensor, toFloat32 } from "../tensor.js";

/** The format's own limit. */
const MAX_HEADER_BYTES = 100_000_000;
const LENGTH_BYTES = 8;

export interface SafetensorsFile {
  /** By name, in the header's order. The arrays are copies: nothing of the input is kept. */
  readonly tensors: Map<string, Tensor>;
  /** The header's `__metadata__`, {} if there is none; an object without a prototype. */
  readonly metadata: Record<string, string>;
}

/**
 * Reads a file of the .safetensors format.
 *
 * Throws `malformed-file`, naming the fault, the tensor and the byte, for anything that breaks the format: a header that
 * is truncated, too long, not UTF-8 or not the format's JSON (also: duplicate keys, a leading space), and tensors that
 * overlap, leave gaps or trailing bytes, or whose bytes do not fit their shape. Throws `unsupported` for a tensor of a
 * dtype that the format knows and linrec does not (F8_*, F6_*, F4, C64), `detached` and `wrong-dtype` for the argument, and
 * `out-of-memory`.
 */
export function readSafetensors(source: ArrayBufferLike | ArrayBufferView): SafetensorsFile {
  const bytes = bytesOf(source);
  const dataStart = LENGTH_BYTES + headerLength(bytes);
  const { entries, metadata } = readHeader(bytes, dataStart);
  checkLayout(entries, bytes.length - dataStart);
  const tensors = new Map<string, Tensor>();
  for (const [name, entry] of entries) {
    tensors.set(name, readTensor(name, entry, bytes, dataStart));
  }
  return { tensors, metadata };
}

function headerLength(bytes: Uint8Array): number {
  if (bytes.length < LENGTH_BYTES)
    fail(`it has ${bytes.length} bytes; a header length alone takes ${LENGTH_BYTES}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    const start = quote(String.fromCharCode(...bytes.subarray(0, 15))); // "<!doctype html>" of a server's page
    fail(
      `its header would have ${length} bytes; the format allows ${MAX_HEADER_BYTES}. It begins with ${start}: ` +
        "if that is another file or a page, look at what its path or URL gives",
    );
  }
  if (Number(length) > bytes.length - LENGTH_BYTES) {
    fail(
      `its header would have ${length} bytes, and ${bytes.length - LENGTH_BYTES} follow: the file is truncated`,
    );
  }
  return Number(length);
}

function readHeader(bytes: Uint8Array, dataStart: number): Header {
  let text: string;
  try {
    text = decodeUtf8(bytes.subarray(LENGTH_BYTES, dataStart));
  } catch (cause) {
    return fail("its header is not UTF-8", cause);
  }
  return parseHeader(text, LENGTH_BYTES);
}

/** Every tensor has the bytes that its shape needs, and together they cover the data exactly once. */
function checkLayout(entries: ReadonlyMap<string, HeaderEntry>, dataLength: number): void {
  for (const [name, { dtype, shape, begin, end }] of entries) {
    const info = dtypes.get(dtype);
    if (!info) refuseDtype(name, dtype);
    const needed = elementCount(shape) * info.bytes;
    if (!Number.isSafeInteger(needed))
      fail(`the shape of tensor ${quote(name)}, ${showShape(shape)}, is too large`);
    if (needed !== end - begin) {
      fail(`tensor ${quote(name)} has ${end - begin} bytes; ${dtype} ${showShape(shape)} needs ${needed}`);
    }
  }
  let covered = 0;
  const inOrder = [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, { begin, end }] of inOrder) {
    if (begin > covered)
      fail(`data bytes ${covered} to ${begin} belong to no tensor; tensor ${quote(name)} comes next`);
    if (begin < covered) fail(`tensor ${quote(name)} starts at data byte ${begin}, inside the one before it`);
    covered = end;
  }
  if (covered > dataLength)
    fail(`its tensors need ${covered} data bytes, and it has ${dataLength}: it is truncated`);
  if (covered < dataLength) fail(`${dataLength - covered} bytes follow the last tensor`);
}

function refuseDtype(name: string, dtype: string): never {
  if (!otherDtypes.has(dtype))
    fail(`tensor ${quote(name)} has the dtype ${quote(dtype)}, which the format does not know`);
  throw new LinrecError(
    "unsupported",
    `Tensor ${quote(name)} has dtype ${dtype}; linrec reads ${[...dtypes.keys()].join(", ")}. Convert it first.`,
  );
}

function readTensor(name: string, entry: HeaderEntry, bytes: Uint8Array, dataStart: number): Tensor {
  const { dtype, shape, begin, end } = entry;
  // slice copies into memory of its own, so that the typed array is aligned wherever the tensor stands in the file.
  const { buffer } = allocating(`tensor ${quote(name)}`, () =>
    bytes.slice(dataStart + begin, dataStart + end),
  );
  return { dtype, shape, data: dtypes.get(dtype)?.create(buffer as ArrayBuffer) } as unknown as Tensor;
}

/** Tensors by their names: a Map, any iterable of pairs, or an object. */
export type TensorsToWrite = Iterable<readonly [string, Tensor]> | Readonly<Record<string, Tensor>>;

/**
 * Writes a file of the .safetensors format: the widest dtypes first, then by name, the header padded to 8 bytes, so that
 * every tensor is aligned and the same tensors give the same bytes. Nothing of the arguments is kept.
 *
 * Throws `invalid-argument` (names or metadata), `wrong-dtype` (data that is not its dtype's array), `shape-mismatch`,
 * `detached` and `out-of-memory`.
 */
export function writeSafetensors(
  tensors: TensorsToWrite,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  checkObject("metadata", metadata, false);
  const items = orderedTensors(tensors);
  const header = encodeUtf8(headerText(items, metadata));
  const dataStart = LENGTH_BYTES + Math.ceil(header.length / 8) * 8;
  if (dataStart - LENGTH_BYTES > MAX_HEADER_BYTES) {
    throw new LinrecError(
      "invalid-argument",
      `The header would have ${header.length} bytes; the format allows ${MAX_HEADER_BYTES}.`,
    );
  }
  const size = items.reduce((sum, [, { data }]) => sum + data.byteLength, dataStart);
  const bytes = allocating("the file", () => new Uint8Array(size));
  new DataView(bytes.buffer).setBigUint64(0, BigInt(dataStart - LENGTH_BYTES), true);
  bytes.fill(0x20, LENGTH_BYTES, dataStart);
  bytes.set(header, LENGTH_BYTES);
  let offset = dataStart;
  for (const [, { data }] of items) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
    offset += data.byteLength;
  }
  return bytes;
}

function orderedTensors(tensors: TensorsToWrite): [string, Tensor][] {
  const unique = new Map<string, Tensor>();
  checkObject("tensors", tensors);
  const items = Symbol.iterator in tensors ? tensors : Object.entries(tensors);
  for (const item of items) {
    checkObject("an entry of tensors", item);
    const [name, tensor] = item;
    if (typeof name !== "string" || name === "__metadata__" || unique.has(name)) {
      const fault = unique.has(name) ? "is there twice" : "cannot be a tensor's name";
      throw new LinrecError("invalid-argument", `${show(name)} ${fault}.`);
    }
    checkText(name, "The tensor name");
    checkTensor(name, tensor);
    unique.set(name, tensor);
  }
  const order = [...dtypes.keys()];
  const rank = (tensor: Tensor) => order.indexOf(tensor.dtype);
  return [...unique].sort(([a, x], [b, y]) => rank(x) - rank(y) || (a < b ? -1 : 1));
}

/** Throws `invalid-argument`, `wrong-dtype`, `shape-mismatch` and `detached` for what is no tensor. */
export function checkTensor(name: string, tensor: Tensor): void {
  const { dtype, shape, data } = (tensor ?? {}) as { dtype?: Dtype; shape?: unknown; data?: unknown };
  const info = dtypes.get(dtype as string);
  if (!info) {
    throw new LinrecError(
      "invalid-argument",
      `Tensor ${quote(name)} has dtype ${show(dtype)}; expected ${[...dtypes.keys()].join(", ")}.`,
    );
  }
  if (arrayClass(data) !== info.array) {
    throw new LinrecError(
      "wrong-dtype",
      `Tensor ${quote(name)} is ${info.name}: data must be a ${info.array}; got ${typeName(data)}.`,
    );
  }
  const array = data as Tensor["data"];
  checkAttached(`The data of tensor ${quote(name)}`, array.buffer);
  const sizes = Array.isArray(shape) ? (shape as number[]) : [Number.NaN];
  if (!sizes.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw new LinrecError(
      "invalid-argument",
      `The shape of tensor ${quote(name)} must be an array of integers of at least 0.`,
    );
  }
  if (elementCount(sizes) !== array.length) {
    throw new LinrecError(
      "shape-mismatch",
      `Tensor ${quote(name)} has ${array.length} values; shape ${showShape(sizes)} needs ${elementCount(sizes)}.`,
    );
  }
}

function checkText(text: unknown, what: string): void {
  if (typeof text === "string" && !/\p{Surrogate}/u.test(text)) return;
  const came = typeof text === "string" ? "half a surrogate pair, which has no UTF-8 form" : typeName(text);
  throw new LinrecError("invalid-argument", `${what} must be well-formed text; got ${came}.`);
}

function headerText(items: readonly [string, Tensor][], metadata: Readonly<Record<string, string>>): string {
  const members: string[] = [];
  const pairs = Object.entries(metadata).map(([key, value]) => {
    checkText(key, "A metadata key");
    checkText(value, `The metadata value of ${quote(key)}`);
    return `${JSON.stringify(key)}:${JSON.stringify(value)}`;
  });
  if (pairs.length) members.push(`"__metadata__":{${pairs.join(",")}}`);
  let offset = 0;
  for (const [name, { dtype, shape, data }] of items) {
    const entry = { dtype, shape, data_offsets: [offset, offset + data.byteLength] };
    members.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    offset += data.byteLength;
  }
  return `{${members.join(",")}}`;
}
