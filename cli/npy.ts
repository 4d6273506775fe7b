/** NumPy's .npy files, read and written piece by piece (numpy.org/doc/stable/reference/generated/numpy.lib.format). */
import type { Stats } from "node:fs";
import { type FileHandle, open, realpath, rename, rm, stat } from "node:fs/promises";
import { fileError } from "./usage.js";

/** float32, or int32 for a model that reads token ids. */
export type Values = typeof Float32Array | typeof Int32Array;
type Source = (new (
  buffer: ArrayBuffer,
) => Iterable<number | bigint>) & { readonly BYTES_PER_ELEMENT: number };

/** By NumPy's names. */
const types: ReadonlyMap<string, Source> = new Map<string, Source>([
  ["<f4", Float32Array],
  ["<f8", Float64Array],
  ["<i8", BigInt64Array],
  ["<i4", Int32Array],
  ["<i2", Int16Array],
  ["<u8", BigUint64Array],
  ["<u4", Uint32Array],
  ["<u2", Uint16Array],
  ["|i1", Int8Array],
  ["|u1", Uint8Array],
]);

const CHUNK_VALUES = 1 << 18;
const LONGEST_HEADER = 1 << 20;

export class NpyFile {
  readonly shape: readonly number[];
  /** No fractions: what token ids must be. */
  readonly integers: boolean;
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #type: Source;
  readonly #start: number;

  private constructor(path: string, file: FileHandle, shape: readonly number[], type: Source, start: number) {
    this.#path = path;
    this.#file = file;
    this.shape = shape;
    this.integers = type !== Float32Array && type !== Float64Array;
    this.#type = type;
    this.#start = start;
  }

  /** Reads the header. Rejects with words for whoever made the file: which dtype the model reads, if this one cannot be. */
  static async open(path: string, dtype: string): Promise<NpyFile> {
    const file = await open(path).catch((error) => {
      throw fileError(path, error);
    });
    try {
      const stats = await file.stat();
      checkPlain(path, stats);
      const prefix = Buffer.alloc(12);
      await file.read(prefix, 0, 12, 0);
      if (prefix.toString("latin1", 0, 6) !== "\x93NUMPY")
        throw new Error(`${path} is no .npy file. Write one with numpy.save(path, array).`);
      const long = (prefix[6] as number) > 1;
      const length = long ? prefix.readUInt32LE(8) : prefix.readUInt16LE(8);
      if (length > LONGEST_HEADER)
        throw new Error(
          `${path} is damaged: its header says it is ${length} bytes long. Save it again with numpy.save(path, array).`,
        );
      const start = (long ? 12 : 10) + length;
      const header = Buffer.alloc(length);
      await file.read(header, 0, length, start - length);
      const { descr, shape } = parseHeader(path, header.toString("latin1"));
      const found = types.get(descr);
      if (!found)
        throw new Error(
          `${path} holds ${descr}; expected ${[...types.keys()].join(", ")}. Save array.astype("${dtype}").`,
        );
      const { size } = stats;
      const needed = start + found.BYTES_PER_ELEMENT * shape.reduce((product, n) => product * n, 1);
      if (size < needed)
        throw new Error(
          `${path} is cut short: [${shape}] of ${descr} needs ${needed} bytes, it has ${size}. Copy it again, whole.`,
        );
      return new NpyFile(path, file, shape, found, start);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Values [from, from + count), a megabyte or two at a time. */
  async *values<As extends Values>(as: As, from: number, count: number): AsyncGenerator<InstanceType<As>> {
    const type = this.#type;
    const bytes = type.BYTES_PER_ELEMENT;
    for (let at = 0; at < count; at += CHUNK_VALUES) {
      const values = Math.min(CHUNK_VALUES, count - at);
      const buffer = new ArrayBuffer(values * bytes);
      const where = this.#start + (from + at) * bytes;
      for (let got = 0; got < buffer.byteLength; ) {
        const { bytesRead } = await this.#file.read(
          new Uint8Array(buffer, got),
          0,
          buffer.byteLength - got,
          where + got,
        );
        if (bytesRead === 0) throw new Error(`${this.#path} became shorter while it was read.`);
        got += bytesRead;
      }
      if ((type as unknown) === as) yield new as(buffer) as InstanceType<As>;
      else yield convert(as, new type(buffer)) as InstanceType<As>;
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

function convert(as: Values, values: Iterable<number | bigint>): Float32Array | Int32Array {
  if (as === Float32Array) return Float32Array.from(values, Number);
  // Beyond int32 no id is one: it must not wrap round to one that is.
  return Int32Array.from(values, (id) => Math.max(-1, Math.min(Number(id), 2 ** 31 - 1)));
}

function parseHeader(path: string, header: string): { descr: string; shape: number[] } {
  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([\d,\s]*)\)/.exec(header)?.[1];
  if (descr === undefined || shape === undefined)
    throw new Error(`${path} has no plain array in its header. Save one with numpy.save(path, array).`);
  if (/'fortran_order':\s*True/.test(header))
    throw new Error(`${path} is in Fortran order. Save numpy.ascontiguousarray(array).`);
  return {
    descr,
    shape: shape
      .split(",")
      .filter((n) => n.trim())
      .map(Number),
  };
}

/** Throws for folders, pipes and devices: files are read and written at any place, and renamed. */
function checkPlain(path: string, stats: Stats): void {
  if (stats.isDirectory()) throw fileError(path, { code: "EISDIR" });
  if (!stats.isFile()) throw new Error(`${path}: it is a pipe or a device. Name a file.`);
}

/** A float32 file in the making: under another name until it is whole, so that no half of one is taken for it. */
export class NpyWriter {
  readonly #path: string;
  readonly #part: string;
  readonly #file: FileHandle;

  private constructor(path: string, part: string, file: FileHandle) {
    this.#path = path;
    this.#part = part;
    this.#file = file;
  }

  static async create(path: string, shape: readonly number[]): Promise<NpyWriter> {
    const target = await realpath(path).catch(() => path); // a link stays one
    const there = await stat(target).catch(() => undefined);
    if (there) checkPlain(path, there); // not when all is done
    const part = `${target}.part`;
    const file = await open(part, "w").catch((error) => {
      throw fileError(path, error);
    });
    const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
    const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${tuple}), }`;
    const padded = `${header.padEnd(Math.ceil((10 + header.length + 1) / 64) * 64 - 11)}\n`;
    const prefix = Buffer.from("\x93NUMPY\x01\x00\0\0", "latin1");
    prefix.writeUInt16LE(padded.length, 8);
    await file.write(Buffer.concat([prefix, Buffer.from(padded, "latin1")]));
    return new NpyWriter(target, part, file);
  }

  async write({ buffer, byteOffset, byteLength }: Float32Array): Promise<void> {
    for (let at = 0; at < byteLength; ) {
      const bytes = new Uint8Array(buffer, byteOffset + at, byteLength - at);
      const { bytesWritten } = await this.#file.write(bytes).catch((error) => {
        throw fileError(this.#path, error);
      });
      at += bytesWritten;
    }
  }

  async finish(): Promise<void> {
    await this.#file.close();
    await rename(this.#part, this.#path).catch((error) => {
      throw fileError(this.#path, error);
    });
  }

  async discard(): Promise<void> {
    await this.#file.close().catch(() => {});
    await rm(this.#part, { force: true });
  }
}
