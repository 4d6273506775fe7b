/** The LRU stages of a tile or step: the four parts of one that {@link TileRunner} names, and what a reset does in them. */
import { CHUNK } from "../state.js";
import type { StageOf } from "./packed.js";
import type { Slots } from "./slots.js";
import type { Step, Tile } from "./tile.js";

type Stage = StageOf<"lru">;

export class LruTile {
  /** Address of loc of the stage under way, then of its h, [tokens, groups, 8] float32. */
  readonly h: number;
  /** Address of the carries into the chunks, [chunks, groups, 8] float32. */
  readonly carries: number;
  /** Address of the state after a tile with a reset: carry, then loc, as {@link project} leaves them. */
  readonly fresh: number;
  readonly #lambdas: number;
  readonly #slots: Slots;
  #tile!: Tile;
  /** Tokens before the tile's first reset: those that need the row's state. */
  #head = 0;
  /** Whether the stage under way has h of the head already, and not loc. */
  #hasHidden = false;

  /** @param scratch address of the thread's scratch block */
  constructor(slots: Slots, scratch: number) {
    const { h, carries, fresh, lambdas } = slots.program.scratch;
    this.#slots = slots;
    this.h = scratch + h;
    this.carries = scratch + carries;
    this.fresh = scratch + fresh;
    this.#lambdas = scratch + lambdas;
  }

  begin(tile: Tile): void {
    this.#tile = tile;
    this.#head = tile.resets[0] ?? tile.tokens;
  }

  /** loc of each token, and from a reset on h: there no carry is missing. */
  project(stage: Stage): void {
    const { kernels, image } = this.#slots;
    const { state, k0, times } = this.#tile;
    if (times !== 0) {
      this.#projectRows(stage);
      return;
    }
    const { dModel, groups, real } = stage;
    if (real) this.#projectRows(stage);
    this.#hasHidden = false;
    this.#restart(stage, this.fresh, this.fresh + 64 * groups);
    if (this.#head === 0) return;
    const [x, xBytes] = [this.#slots.at(stage.src), this.#slots.stride(stage.src)];
    const lambda = image + stage.powers;
    if (real) {
      kernels.realScan(this.h, lambda, state + stage.loc, image + stage.zeros, this.#head, k0, CHUNK, groups);
      return;
    }
    // biome-ignore format: the kernel's arguments, outputs first
    kernels.projectScan(
      this.h, this.carries, x, xBytes, image + stage.B, lambda, state + stage.loc, this.#head, k0, CHUNK, dModel, groups,
    );
  }

  commit(stage: Stage): void {
    const { kernels, image } = this.#slots;
    const { state, k0, resets, times } = this.#tile;
    const [carry, loc] = [state + stage.carry, state + stage.loc];
    if (times !== 0) {
      this.#commitTimed(stage, carry);
      return;
    }
    const { groups, real } = stage;
    const lambdaT = image + stage.lambdaT;
    if (this.#head > 0)
      kernels.carryScan(this.carries, carry, loc, this.h, lambdaT, this.#head, k0, CHUNK, groups, real);
    if (resets.length === 0) return;
    this.#slots.copy(carry, this.fresh, 64 * groups);
    this.#slots.copy(loc, this.fresh + 64 * groups, 32 * groups);
  }

  /** @param whole as in {@link TileRunner.run}: then y as well */
  advance(stage: Stage, whole = false): void {
    const { state, k0, times } = this.#tile;
    if (times !== 0) {
      this.project(stage);
      this.commit(stage);
      return;
    }
    const [carry, loc] = [state + stage.carry, state + stage.loc];
    if (stage.real) this.#projectRows(stage);
    this.#hasHidden = true;
    if (this.#head > 0) this.#projectHidden(stage, carry, loc, 0, this.#head, k0, whole);
    this.#restart(stage, carry, loc);
  }

  /** y = Re(C h) + D * u, of the tokens that give an output where this stage is the `last` to carry. */
  apply(stage: Stage, last: boolean): void {
    const { kernels, image } = this.#slots;
    const { groups, powers, real } = stage;
    if (!this.#hasHidden && this.#head > 0)
      kernels.addCarry(this.h, image + powers, this.carries, this.#head, this.#tile.k0, CHUNK, groups, real);
    if (last) this.#slots.thin(this.#tile, this.h, 32 * groups);
    if (this.#slots.rows > 0) this.#projectOutput(stage);
  }

  step(stage: Stage, { states, ks, times }: Step): void {
    const { kernels, image, program, rows } = this.#slots;
    const { groups, carry, loc } = stage;
    const { rowBytes } = program.layout;
    this.#projectRows(stage);
    if (times !== 0) {
      for (let row = 0; row < rows; row++) {
        const h = this.h + 32 * groups * row;
        this.#scanTimed(stage, h, states + row * rowBytes + carry, times + 4 * row, 1);
      }
    } else {
      // biome-ignore format: the kernel's arguments, outputs first
      kernels.stepScan(
        this.h, this.carries, states + carry, states + loc, rowBytes, ks,
        image + stage.lambdaT, image + stage.powers, CHUNK, rows, groups, stage.real,
      );
    }
    this.#projectOutput(stage);
  }

  #commitTimed(stage: Stage, carry: number): void {
    const { tokens, resets, times } = this.#tile;
    this.#scanTimed(stage, this.h, carry, times, this.#head);
    for (const [i, start] of resets.entries()) {
      this.#zeroCarry(stage, carry);
      const h = this.h + 32 * stage.groups * start;
      this.#scanTimed(stage, h, carry, times + 4 * start, (resets[i + 1] ?? tokens) - start);
    }
  }

  #zeroCarry({ zeros, groups }: Stage, carry: number): void {
    this.#slots.kernels.copyRows(carry, 32 * groups, this.#slots.image + zeros, 0, 32 * groups, 2);
  }

  /** h of the tokens from the tile's first reset on, and the state after them. */
  #restart(stage: Stage, carry: number, loc: number): void {
    const { resets, tokens } = this.#tile;
    for (let i = 0; i < resets.length; i++) {
      this.#zeroCarry(stage, carry);
      const start = resets[i] as number;
      this.#projectHidden(stage, carry, loc, start, (resets[i + 1] ?? tokens) - start, 0);
    }
  }

  /** h of `tokens` tokens from `start` on, and the state after them; where they are `whole` y in its stead. */
  #projectHidden(
    stage: Stage,
    carry: number,
    loc: number,
    start: number,
    tokens: number,
    k0: number,
    whole = false,
  ): void {
    const { kernels, image } = this.#slots;
    const { dModel, groups, outWidth } = stage;
    const h = this.h + 32 * groups * start;
    const [powers, lambdaT] = [image + stage.powers, image + stage.lambdaT];
    if (stage.real) {
      kernels.realScan(h, powers, loc, image + stage.zeros, tokens, k0, CHUNK, groups);
      kernels.carryScan(this.carries, carry, loc, h, lambdaT, tokens, k0, CHUNK, groups, true);
      kernels.addCarry(h, powers, this.carries, tokens, k0, CHUNK, groups, true);
      return;
    }
    const xBytes = this.#slots.stride(stage.src);
    // biome-ignore format: the kernel's arguments, outputs first
    kernels.tiles(
      whole ? this.#slots.at(stage.dst) : 0, h, this.carries, carry, loc, this.#slots.at(stage.src) + xBytes * start, xBytes,
      image + stage.B, lambdaT, powers, image + stage.C, image + stage.D,
      tokens, k0, CHUNK, dModel, groups, outWidth,
    );
  }

  #projectOutput({ src, dst, C, D, groups, outWidth }: Stage): void {
    const { kernels, image, rows } = this.#slots;
    // biome-ignore format: the kernel's arguments, outputs first
    kernels.output(
      this.#slots.at(dst), 4 * this.#slots.width(dst), this.h, image + C, image + D,
      this.#slots.at(src), this.#slots.stride(src), rows, 8 * groups, outWidth,
    );
  }

  /** bu of every row, in the place of h: where the scan is a kernel of its own. */
  #projectRows({ src, B, dModel, groups }: Stage): void {
    const { kernels, image, rows } = this.#slots;
    this.#hasHidden = true;
    // The panels of B are those of a dense stage with a column for each part of a state: bu for all rows at once.
    // biome-ignore format: the kernel's arguments, outputs first
    kernels.dense(
      this.h, 32 * groups, this.#slots.at(src), this.#slots.stride(src), image + B, 0, 0, rows, dModel, 8 * groups,
    );
  }

  /** h of `tokens` tokens of a row, in the place of their bu. */
  #scanTimed({ rates, groups, real }: Stage, h: number, carry: number, times: number, tokens: number): void {
    const { kernels, image } = this.#slots;
    kernels.timedScan(h, carry, this.#lambdas, image + rates, times, tokens, groups, real);
  }
}
