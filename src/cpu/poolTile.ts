/** The pools of a tile or step that carry a sum or a maximum: the four parts that {@link TileRunner} names. */
import { CHUNK } from "../state.js";
import type { StageOf } from "./packed.js";
import type { Slots } from "./slots.js";
import type { Step, Tile } from "./tile.js";

type Stage = StageOf<"poolAll">;

export class PoolTile {
  readonly #slots: Slots;
  /** Address of the sum of each chunk, [chunks, width] float64. */
  readonly #sums: number;
  #tile!: Tile;
  /** Whether the tile under way was projected. */
  #hasSums = false;

  constructor(slots: Slots, scratch: number) {
    this.#slots = slots;
    this.#sums = scratch + slots.program.scratch.carries;
  }

  begin(tile: Tile): void {
    this.#tile = tile;
    this.#hasSums = false;
  }

  /** The sum of each chunk since the last reset. */
  project(stage: Stage): void {
    const { state, tokens, k0, resets, times } = this.#tile;
    this.#hasSums = true;
    if (times !== 0) return;
    const width = this.#slots.width(stage.src);
    const from = resets.at(-1) ?? 0;
    const x = this.#slots.at(stage.src) + 4 * width * from;
    const k = resets.length > 0 ? 0 : k0;
    const loc = state + stage.loc;
    this.#slots.kernels.poolLocal(this.#sums, x, loc, tokens - from, k, CHUNK, width, stage.isMax);
  }

  commit(stage: Stage): void {
    if (!this.#hasSums) this.project(stage);
    const { state, tokens, k0, resets, times } = this.#tile;
    const [carry, loc] = [state + stage.carry, state + stage.loc];
    const width = this.#slots.width(stage.src);
    const from = resets.at(-1) ?? 0;
    const isReset = resets.length > 0;
    if (isReset) this.#slots.copy(carry, this.#slots.image + stage.empty, 8 * width);
    if (times !== 0) this.#addTokens(stage, carry, loc, from);
    else {
      const k = isReset ? 0 : k0;
      this.#slots.kernels.poolCarry(carry, loc, this.#sums, tokens - from, k, CHUNK, width, stage.isMax);
    }
  }

  /** The result, if the row ends here. Returns whether it does. */
  apply(stage: Stage): boolean {
    const { state, count, last } = this.#tile;
    if (!last) return false;
    const [y, width] = [this.#slots.at(stage.dst), this.#slots.width(stage.dst)];
    this.#slots.kernels.poolResult(y, state + stage.carry, state + stage.loc, count, width, stage.isMax);
    this.#slots.rows = 1;
    return true;
  }

  step({ src, dst, carry, loc, isMax }: Stage, { states, ks, counts, times }: Step): void {
    const { kernels, program, rows } = this.#slots;
    const chunk = times === 0 ? CHUNK : 1;
    // biome-ignore format: the kernel's arguments, outputs first
    kernels.poolStep(
      this.#slots.at(dst), this.#slots.at(src), this.#sums, states + carry, states + loc, program.layout.rowBytes, ks, counts,
      chunk, rows, this.#slots.width(src), isMax,
    );
  }

  /** Adds the tokens from `start` on one by one: where they are some time apart, they are chunks of one token. */
  #addTokens(stage: Stage, carry: number, loc: number, start: number): void {
    const { kernels, program } = this.#slots;
    const { tokens } = this.#tile;
    const width = this.#slots.width(stage.src);
    const most = program.tileTokens / CHUNK; // sums that there is room for
    for (let t = start; t < tokens; t += most) {
      const count = Math.min(most, tokens - t);
      const x = this.#slots.at(stage.src) + 4 * t * width;
      kernels.poolLocal(this.#sums, x, loc, count, 0, 1, width, stage.isMax);
      kernels.poolCarry(carry, loc, this.#sums, count, 0, 1, width, stage.isMax);
    }
  }
}
