/** A memory for calling kernels by themselves, in which no write goes unseen. */
import { createMemory, instantiate, type Kernels } from "../../src/cpu/instantiate.js";

type Values = Float32Array | Float64Array | Int32Array;

/** A huge number as float32, float64 and int32: whoever reads past what it was given gives results that are far off. */
const POISON = 0x7f;
/** Around everything that is placed. */
const GAP = 192;

/** What a call may write: `bytes` at an address, `rows` times, `stride` bytes apart. */
export interface Output {
  readonly at: number;
  readonly bytes: number;
  readonly rows?: number;
  readonly stride?: number;
}

export class Bench {
  readonly #kernels: Kernels;
  readonly #memory: WebAssembly.Memory;
  #end = GAP;

  static async open(bytes: BufferSource): Promise<Bench> {
    const memory = createMemory(false, 64);
    return new Bench(await instantiate(await WebAssembly.compile(bytes), memory), memory);
  }

  private constructor(kernels: Kernels, memory: WebAssembly.Memory) {
    this.#kernels = kernels;
    this.#memory = memory;
    new Uint8Array(memory.buffer).fill(POISON);
  }

  /** Takes everything away. */
  clear(): void {
    new Uint8Array(this.#memory.buffer, 0, Math.min(this.#end + 4096, this.#memory.buffer.byteLength)).fill(
      POISON,
    );
    this.#end = GAP;
  }

  /** Room for `bytes`, its address. */
  room(bytes: number): number {
    const at = this.#end;
    this.#end = Math.ceil((at + bytes) / 16) * 16 + GAP;
    return at;
  }

  place(values: Values): number {
    const at = this.room(values.byteLength);
    new Uint8Array(this.#memory.buffer).set(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
      at,
    );
    return at;
  }

  /** [rows, width] with the rows `stride` bytes apart. */
  placeRows(values: Float32Array, width: number, stride: number): number {
    const rows = values.length / width;
    const at = this.room(rows * stride);
    for (let row = 0; row < rows; row++)
      new Float32Array(this.#memory.buffer, at + row * stride, width).set(
        values.subarray(row * width, (row + 1) * width),
      );
    return at;
  }

  floats(at: number, length: number): Float32Array {
    return new Float32Array(this.#memory.buffer.slice(at, at + 4 * length));
  }

  doubles(at: number, length: number): Float64Array {
    return new Float64Array(this.#memory.buffer.slice(at, at + 8 * length));
  }

  /** The rows that `placeRows` would have placed. */
  rows(at: number, rows: number, width: number, stride: number): Float32Array {
    const result = new Float32Array(rows * width);
    for (let row = 0; row < rows; row++) result.set(this.floats(at + row * stride, width), row * width);
    return result;
  }

  /** Calls a kernel. Throws if it writes anywhere but to its outputs. */
  call(outputs: readonly Output[], kernel: (kernels: Kernels) => void): void {
    const bytes = new Uint8Array(
      this.#memory.buffer,
      0,
      Math.min(this.#end + 4096, this.#memory.buffer.byteLength),
    );
    const before = bytes.slice();
    kernel(this.#kernels);
    for (const { at, bytes: length, rows = 1, stride = 0 } of outputs) {
      for (let row = 0; row < rows; row++) {
        const start = at + row * stride;
        before.set(bytes.subarray(start, start + length), start);
      }
    }
    const [now, then] = [new Int32Array(bytes.buffer, 0, bytes.length / 4), new Int32Array(before.buffer)];
    for (let i = 0; i < now.length; i++)
      if (now[i] !== then[i]) throw new Error(`a write to ${4 * i}, which is no output's address`);
  }
}
