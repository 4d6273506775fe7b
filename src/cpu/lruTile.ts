/** The LRU stages of a tile or step: the four parts of one that {@link TileRunner} names, and what a reset does in them. */
import { CHUNK } from "../state.js";
import type { StageOf } from "./packed.js";
import type { Slots } from "./slots.js";
import { chunksOf, type Step, type Tile } from "./tile.js";

/** A thread that has no carry yet projects so many parts of a tile without, and looks for it after each. */
const PARTS = 8;

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
  /** Tokens of the head whose loc is in h: of the others h comes at once, when their carry is there. */
  #projected = 0;
  /** Whether the stage under way has all that needs no carry. */
  #isProjected = false;

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
    this.#beginStage();
  }

  #beginStage(): void {
    this.#projected = 0;
    this.#isProjected = false;
  }

  /** loc of some more tokens, at last from a reset on h: there no carry is missing. Returns whether there are more. */
  project(stage: Stage): boolean {
    const isTimed = this.#tile.times !== 0;
    if (isTimed || stage.real) this.#projectInput(stage);
    if (!isTimed) {
      if (this.#projected < this.#head) this.#projectSome(stage);
      if (this.#projected < this.#head) return true;
      this.#restart(stage, this.fresh, this.fresh + 64 * stage.groups);
    }
    this.#isProjected = true;
    return false;
  }

  /** loc of all tokens where the kernel wants them so, else of a part of the tile. */
  #projectSome(stage: Stage): void {
    const { kernels, image, program } = this.#slots;
    const { dModel, groups, real } = stage;
    const start = this.#projected;
    const k0 = start > 0 ? 0 : this.#tile.k0;
    const loc = this.#tile.state + stage.loc;
    const h = this.h + 32 * groups * start;
    const lambda = image + stage.powers;
    if (real) {
      this.#projected = this.#head;
      kernels.realScan(h, lambda, loc, image + stage.zeros, this.#head, k0, CHUNK, groups);
      return;
    }
    const part = Math.ceil(program.tileTokens / CHUNK / PARTS) * CHUNK;
    const tokens = Math.min(part - k0, this.#head - start);
    const xBytes = this.#slots.stride(stage.src);
    const x = this.#slots.at(stage.src) + xBytes * start;
    // biome-ignore format: the kernel's arguments, outputs first
    kernels.projectScan(h, this.carries, x, xBytes, image + stage.B, lambda, loc, tokens, k0, CHUNK, dModel, groups);
    this.#projected += tokens;
  }

  /** @param whole as in {@link TileRunner.run}: then y as well */
  commit(stage: Stage, whole = false): void {
    const { kernels, image } = this.#slots;
    const { state, k0, resets, times } = this.#tile;
    const { groups, real, lambdaT } = stage;
    const [carry, loc] = [state + stage.carry, state + stage.loc];
    if (!this.#isProjected && (times !== 0 || real)) this.project(stage);
    const [head, projected] = [this.#head, this.#projected];
    if (times !== 0) {
      this.#commitTimed(stage, carry);
      return;
    }
    if (projected > 0) {
      // biome-ignore format: the kernel's arguments, outputs first
      kernels.carryScan(this.carries, carry, loc, this.h, image + lambdaT, projected, k0, CHUNK, groups, real);
    }
    if (projected < head)
      this.#projectHidden(stage, carry, loc, projected, head - projected, projected > 0 ? 0 : k0, whole);
    if (!this.#isProjected) {
      this.#restart(stage, carry, loc);
    } else if (resets.length > 0) {
      this.#slots.copy(carry, this.fresh, 64 * groups);
      this.#slots.copy(loc, this.fresh + 64 * groups, 32 * groups);
    }
  }

  /** y = Re(C h) + D * u, of the tokens that give an output where this stage is the `last` to carry. */
  apply(stage: Stage, last: boolean): void {
    const { kernels, image } = this.#slots;
    const { groups, powers, real } = stage;
    if (this.#projected > 0) {
      // biome-ignore format: the kernel's arguments, outputs first
      kernels.addCarry(this.h, image + powers, this.carries, this.#projected, this.#tile.k0, CHUNK, groups, real);
    }
    if (last) this.#slots.thin(this.#tile, this.h, 32 * groups);
    if (this.#slots.rows > 0) this.#projectOutput(stage);
    this.#beginStage();
  }

  step(stage: Stage, { states, ks, times }: Step): void {
    const { kernels, image, program, rows } = this.#slots;
    const { groups, carry, loc } = stage;
    const { rowBytes } = program.layout;
    this.#projectInput(stage);
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
    // The carries into what was projected without them are still wanted, and these tokens have a chunk's room after them.
    const rounded = this.carries + 32 * groups * chunksOf(this.#projected, this.#tile.k0);
    // biome-ignore format: the kernel's arguments, outputs first
    kernels.tiles(
      whole ? this.#slots.at(stage.dst) : 0, h, rounded, carry, loc, this.#slots.at(stage.src) + xBytes * start, xBytes,
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
  #projectInput({ src, B, dModel, groups }: Stage): void {
    const { kernels, image, rows } = this.#slots;
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
