/**
 * The activations of the tile or step under way: where each slot of the program is, and how many rows it has. What takes them
 * from slot to slot without a state is here for a layer, in `stages.ts` for models.
 */
import type { Kernels } from "./instantiate.js";
import type { PackedProgram, StageOf } from "./packed.js";
import type { Tile } from "./tile.js";

/** Whether x needs no padding to be a slot. */
export const isInputDirect = ({ slots, inputWidth }: PackedProgram) => slots[0] === inputWidth;

/** Whether y needs none, and has a row for each token. */
export const isOutputDirect = ({ slots, output, outputWidth, pooled }: PackedProgram) =>
  !pooled && slots[output] === outputWidth;

export class Slots {
  readonly kernels: Kernels;
  readonly program: PackedProgram;
  /** Address of the program's image. */
  readonly image: number;
  /** The tile's tokens, or fewer of them: those that give an output; 1 after a pool. */
  rows = 0;
  /** Address of each slot: scratch, or the caller's x and y where those need no padding. */
  readonly #addresses: number[];
  /** Bytes from a row of x to the next. */
  #xStride = 0;
  readonly #scratch: readonly number[];

  constructor(kernels: Kernels, program: PackedProgram, image: number, scratch: number) {
    this.kernels = kernels;
    this.program = program;
    this.image = image;
    this.#scratch = program.scratch.slots.map((offset) => scratch + offset);
    this.#addresses = [...this.#scratch];
  }

  at(slot: number): number {
    return this.#addresses[slot] as number;
  }

  /** Floats of a row. */
  width(slot: number): number {
    return this.program.slots[slot] as number;
  }

  /** Bytes from a row of a slot to the next. */
  stride(slot: number): number {
    return slot === 0 ? this.#xStride : 4 * this.width(slot);
  }

  /** Points the slots at x and y where these need no padding, else at scratch. */
  place(x: number, y: number, rows: number, all = true, reversed = false): void {
    const { program } = this;
    const { inputWidth, output, slots } = program;
    this.rows = rows;
    const bytes = 4 * inputWidth;
    const stride = reversed ? -bytes : bytes;
    if (isInputDirect(program)) {
      this.#addresses[0] = x;
      this.#xStride = stride;
    } else {
      this.#xStride = 4 * (slots[0] as number);
      this.kernels.copyRows(this.#scratch[0] as number, this.#xStride, x, stride, bytes, rows);
    }
    // Where y has fewer rows than x, or others before them, stages must not use y's memory.
    const direct = all && !reversed && isOutputDirect(program);
    this.#addresses[output] = direct ? y : (this.#scratch[output] as number);
  }

  /** Leaves only the tokens that give an output: in the slots that are still read, and in h, of `hBytes` a token. */
  thin({ tokens, resets, phase, every }: Tile, h: number, hBytes: number): void {
    if (every === 1) return;
    let rows = 0;
    for (let i = -1, start = 0; i < resets.length; i++) {
      if (i >= 0) start = resets[i] as number;
      const end = resets[i + 1] ?? tokens;
      const first = start + every - 1 - (i < 0 ? phase : 0);
      const count = Math.max(0, Math.ceil((end - first) / every));
      // Rows only move towards the front, in order: none is overwritten before it has moved.
      const pick = (to: number, from: number, bytes: number) =>
        this.kernels.copyRows(to + rows * bytes, bytes, from + first * bytes, every * bytes, bytes, count);
      for (const slot of this.program.live)
        pick(this.#scratch[slot] as number, this.at(slot), 4 * this.width(slot));
      pick(h, h, hBytes);
      rows += count;
    }
    for (const slot of this.program.live) this.#addresses[slot] = this.#scratch[slot] as number;
    this.rows = rows;
  }

  /** dst = rows of src from an address on. */
  copyRows({ dst }: StageOf<"poolLast">, from: number, rows = this.rows): void {
    const bytes = 4 * this.width(dst);
    this.kernels.copyRows(this.at(dst), bytes, from, bytes, bytes, rows);
    this.rows = rows;
  }

  /** dst = src + other */
  add({ src, dst, other }: StageOf<"add">): void {
    this.kernels.add(this.at(dst), this.at(src), this.at(other), this.rows * this.width(dst));
  }

  copy(to: number, from: number, bytes: number): void {
    this.kernels.copyRows(to, bytes, from, bytes, bytes, 1);
  }

  writeOutput(y: number, reversed = false, adds = false): void {
    const { output, outputWidth } = this.program;
    const from = this.at(output);
    if (from === y) return;
    const [bytes, own] = [4 * outputWidth, 4 * this.width(output)];
    const stride = reversed ? -bytes : bytes;
    if (adds) this.kernels.addRows(y, stride, from, own, bytes, this.rows);
    else this.kernels.copyRows(y, stride, from, own, bytes, this.rows);
  }
}
