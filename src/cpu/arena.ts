/**
 * Memory for the kernels, planned by the host: first fit over a list of free blocks. Kernels allocate nothing.
 * Blocks start on 128-byte lines, so that two threads never write to one line (or one pair of lines) of cache.
 */
import { LinrecError, messageOf } from "../errors.js";

const ALIGNMENT = 128;
const PAGE = 65536;

interface Block {
  start: number;
  size: number;
}

export class Arena {
  readonly memory: WebAssembly.Memory;
  /** Free blocks by address; none touches the next. */
  readonly #free: Block[] = [];
  readonly #sizes = new Map<number, number>();
  #end = ALIGNMENT; // address 0 stays unused, so that a pointer that was never set is never valid memory
  #used = 0;

  constructor(memory: WebAssembly.Memory) {
    this.memory = memory;
  }

  /** Bytes in allocated blocks. */
  get used(): number {
    return this.#used;
  }

  /** A block of at least `bytes`, with whatever was there before. Grows the memory where needed; throws `out-of-memory` where that fails. */
  allocate(bytes: number): number {
    const size = Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    let start = this.#takeFree(size);
    if (start === undefined) {
      start = this.#end;
      this.#reach(start + size);
      this.#end += size;
    }
    this.#sizes.set(start, size);
    this.#used += size;
    return start;
  }

  /** Frees what a thread that was just ended may still be writing to for a moment. */
  freeLater(addresses: readonly number[]): void {
    const timer = setTimeout(() => {
      for (const address of addresses) this.free(address);
    }, LAST_WRITES_MS) as { unref?(): void };
    timer.unref?.(); // in Node: no process waits for it
  }

  /** Gives a block back. Freeing what is not allocated is ignored: 0 may be freed. */
  free(start: number): void {
    const size = this.#sizes.get(start);
    if (size === undefined) return;
    this.#sizes.delete(start);
    this.#used -= size;
    const at = this.#free.findIndex((block) => block.start > start);
    const index = at < 0 ? this.#free.length : at;
    this.#free.splice(index, 0, { start, size });
    this.#merge(index);
    this.#merge(index - 1);
  }

  #takeFree(size: number): number | undefined {
    const index = this.#free.findIndex((block) => block.size >= size);
    const block = this.#free[index];
    if (!block) return undefined;
    const start = block.start;
    block.start += size;
    block.size -= size;
    if (block.size === 0) this.#free.splice(index, 1);
    return start;
  }

  #merge(index: number): void {
    const [left, right] = [this.#free[index], this.#free[index + 1]];
    if (left && right && left.start + left.size === right.start) {
      left.size += right.size;
      this.#free.splice(index + 1, 1);
    }
  }

  #reach(end: number): void {
    const missing = end - this.memory.buffer.byteLength;
    if (missing <= 0) return;
    try {
      this.memory.grow(Math.ceil(missing / PAGE));
    } catch (error) {
      throw new LinrecError(
        "out-of-memory",
        `WASM memory could not grow from ${this.memory.buffer.byteLength} to ${end} bytes (${messageOf(error)}). ` +
          "Use smaller batches, or dispose of layers that are no longer needed.",
        { cause: error },
      );
    }
  }
}

/** Nobody says when an ended thread stops: most within a few ms, but Chromium lets one that is busy go on for two seconds. */
const LAST_WRITES_MS = 5000;
