/**
 * Takes one tile, up to `tileTokens` tokens of one sequence, through a whole program while it is in cache.
 *
 * A tile stops at every stage that carries state, for its driver to bring the carry from the row's previous tile, which
 * another thread may still be computing:
 *
 *     for (let at = runner.local(0); at !== FINISHED; at = runner.local(runner.apply(at))) {
 *       if (...the previous tile has committed stage `at`...) {
 *         runner.advance(at);
 *       } else {
 *         runner.project(at);
 *         ...wait for it...
 *         runner.commit(at);
 *       }
 *       ...tell the next tile...
 *     }
 *
 * `local` runs the stages in between. `project` is all of the stage that needs no carry, `commit` the small serial part (a
 * multiply-add for each state and chunk), `apply` what needs the carries. `advance` is project and commit in one pass, faster
 * and the same to the bit. Everything between memory and memory is in the kernels.
 */
import { CHUNK } from "../state.js";
import type { Kernels } from "./instantiate.js";
import type { PackedProgram, PackedStage } from "./packed.js";

/** Where a tile's data is, all of it in the memory of the kernels. */
export interface Tile {
  /** [tokens, inputWidth] float32 */
  x: number;
  /** [tokens, outputWidth] float32, or [outputWidth] of a program that pools: written by the row's last tile only */
  y: number;
  /** > 0 */
  tokens: number;
  /** Tokens of the first chunk that precede the tile. Only a row's first tile may start inside a chunk. */
  k0: number;
  /** The row's state block; `commit` advances it. */
  state: number;
  /** Whether the row ends here, which is when a pool gives its result. */
  last: boolean;
  /** Tokens since the state's origin after the last tile: what a mean pool divides by. */
  count: number;
}

type Stage<K extends PackedStage["kind"]> = Extract<PackedStage, { kind: K }>;

export const FINISHED = -1;

export class TileRunner {
  readonly #kernels: Kernels;
  readonly #program: PackedProgram;
  readonly #image: number;
  /** Address of each slot for the tile under way: scratch, or the caller's x and y where those need no padding. */
  readonly #slots: number[];
  readonly #scratchSlots: readonly number[];
  readonly #h: number;
  readonly #carries: number;
  #tile!: Tile;
  /** Rows of the slots: the tile's tokens, 1 after a pool. */
  #rows = 0;
  /** Whether the LRU stage under way has h already, and not loc. */
  #hasHidden = false;

  /** @param image address of the program's image; @param scratch address of a block of `program.scratch.bytes` */
  constructor(kernels: Kernels, program: PackedProgram, image: number, scratch: number) {
    this.#kernels = kernels;
    this.#program = program;
    this.#image = image;
    this.#scratchSlots = program.scratch.slots.map((offset) => scratch + offset);
    this.#slots = [...this.#scratchSlots];
    this.#h = scratch + program.scratch.h;
    this.#carries = scratch + program.scratch.carries;
  }

  /** Chunks that the tile touches: rows of the carries. */
  static chunks(tokens: number, k0: number): number {
    return Math.ceil((k0 + tokens) / CHUNK);
  }

  /** Address of the float32 carries into the chunks of the tile, [chunks, groups, 8]: `commit` writes them, `apply` reads them. */
  get carries(): number {
    return this.#carries;
  }

  /** Address of loc of the LRU stage under way, [tokens, groups, 8] float32. */
  get loc(): number {
    return this.#h;
  }

  /** Runs a whole tile on this thread, given that the row's earlier tiles are done. */
  run(tile: Tile): void {
    this.begin(tile);
    for (let at = this.local(0); at !== FINISHED; at = this.local(this.apply(at))) this.advance(at);
  }

  begin(tile: Tile): void {
    const { inputWidth, outputWidth, output, pooled, slots } = this.#program;
    this.#tile = tile;
    this.#rows = tile.tokens;
    if (slots[0] === inputWidth) {
      this.#slots[0] = tile.x;
    } else {
      const to = this.#scratchSlots[0] as number;
      this.#kernels.copyRows(
        to,
        4 * (slots[0] as number),
        tile.x,
        4 * inputWidth,
        4 * inputWidth,
        tile.tokens,
      );
    }
    // A pool's program writes y only once, so its stages before the pool must not use y's memory.
    const direct = !pooled && slots[output] === outputWidth;
    this.#slots[output] = direct ? tile.y : (this.#scratchSlots[output] as number);
  }

  /** Runs stages from `from` on, until one carries state: returns its index, or FINISHED with y written. */
  local(from: number): number {
    const { stages } = this.#program;
    if (from === FINISHED) return FINISHED;
    for (let i = from; i < stages.length; i++) {
      const stage = stages[i] as PackedStage;
      if (stage.kind === "lru" || stage.kind === "poolMean") return i;
      if (stage.kind === "poolLast") {
        if (!this.#tile.last) return FINISHED;
        this.#poolLast(stage);
      } else {
        this.#runLocal(stage);
      }
    }
    this.#writeOutput();
    return FINISHED;
  }

  /** The part of a carrying stage that needs no carry: loc of each token, or a pool's sum of each chunk. */
  project(at: number): void {
    const stage = this.#carryStage(at);
    const { state, tokens, k0 } = this.#tile;
    const x = this.#slot(stage.src);
    const width = this.#width(stage.src);
    if (stage.kind === "poolMean") {
      this.#kernels.poolLocal(this.#carries, x, state + stage.loc, tokens, k0, CHUNK, width);
      return;
    }
    const { dModel, groups } = stage;
    const [B, lambda] = [this.#image + stage.B, this.#image + stage.lambda];
    this.#hasHidden = false;
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.projectScan(
      this.#h, this.#carries, x, 4 * width, B, lambda, state + stage.loc, tokens, k0, CHUNK, dModel, groups,
    );
  }

  /** Advances the row's state past this tile, after {@link project}: the row's previous tile must have committed the stage. */
  commit(at: number): void {
    const stage = this.#carryStage(at);
    const { state, tokens, k0 } = this.#tile;
    const carry = state + stage.carry;
    const loc = state + stage.loc;
    if (stage.kind === "lru") {
      const lambdaT = this.#image + stage.lambdaT;
      this.#kernels.carryScan(this.#carries, carry, loc, this.#h, lambdaT, tokens, k0, CHUNK, stage.groups);
    } else {
      this.#kernels.poolCarry(carry, loc, this.#carries, tokens, k0, CHUNK, this.#width(stage.src));
    }
  }

  /** {@link project} and {@link commit} in one: the row's previous tile must have committed the stage. */
  advance(at: number): void {
    const stage = this.#carryStage(at);
    if (stage.kind === "poolMean") {
      this.project(at);
      this.commit(at);
      return;
    }
    const { state, tokens, k0 } = this.#tile;
    const { dModel, groups } = stage;
    const image = this.#image;
    this.#hasHidden = true;
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.projectHidden(
      this.#h, this.#carries, state + stage.carry, state + stage.loc, this.#slot(stage.src), 4 * this.#width(stage.src),
      image + stage.B, image + stage.lambda, image + stage.lambdaT, image + stage.powers,
      tokens, k0, CHUNK, dModel, groups,
    );
  }

  /** Finishes a stage whose carries are there. Returns the stage to go on from, or FINISHED if the tile ends here. */
  apply(at: number): number {
    const stage = this.#carryStage(at);
    if (stage.kind === "lru") {
      this.#output(stage);
      return at + 1;
    }
    if (!this.#tile.last) return FINISHED;
    const { state, count } = this.#tile;
    this.#kernels.poolMean(
      this.#slot(stage.dst),
      state + stage.carry,
      state + stage.loc,
      count,
      this.#width(stage.dst),
    );
    this.#rows = 1;
    return at + 1;
  }

  #output(stage: Stage<"lru">): void {
    const { tokens, k0 } = this.#tile;
    const { groups, outWidth } = stage;
    const image = this.#image;
    if (!this.#hasHidden) {
      this.#kernels.addCarry(this.#h, image + stage.powers, this.#carries, tokens, k0, CHUNK, groups);
    }
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.output(
      this.#slot(stage.dst), 4 * this.#width(stage.dst), this.#h, image + stage.C, image + stage.D,
      this.#slot(stage.src), 4 * this.#width(stage.src), tokens, 8 * groups, outWidth,
    );
  }

  #carryStage(at: number): Stage<"lru" | "poolMean"> {
    return this.#program.stages[at] as Stage<"lru" | "poolMean">;
  }

  #poolLast(stage: Stage<"poolLast">): void {
    const bytes = 4 * this.#width(stage.src);
    this.#kernels.copyRows(
      this.#slot(stage.dst),
      bytes,
      this.#slot(stage.src) + (this.#rows - 1) * bytes,
      bytes,
      bytes,
      1,
    );
    this.#rows = 1;
  }

  #runLocal(stage: Exclude<PackedStage, { kind: "lru" | "poolMean" | "poolLast" }>): void {
    const kernels = this.#kernels;
    const image = this.#image;
    const rows = this.#rows;
    const y = this.#slot(stage.dst);
    const x = this.#slot(stage.src);
    const width = this.#width(stage.dst);
    switch (stage.kind) {
      case "dense":
        kernels.dense(
          y,
          4 * width,
          x,
          4 * this.#width(stage.src),
          image + stage.W,
          image + stage.b,
          rows,
          stage.inWidth,
          stage.outWidth,
        );
        return;
      case "layerNorm":
        kernels.layerNorm(
          y,
          x,
          4 * width,
          image + stage.scale,
          image + stage.bias,
          stage.epsilon,
          rows,
          stage.width,
        );
        return;
      case "batchNorm":
        kernels.batchNorm(y, x, image + stage.mean, image + stage.factor, image + stage.bias, rows, width);
        return;
      case "gelu":
        kernels.gelu(y, x, rows * width);
        return;
      case "glu":
        kernels.glu(y, x, this.#slot(stage.gate), rows * width);
        return;
      case "add":
        kernels.add(y, x, this.#slot(stage.other), rows * width);
        return;
      case "logSoftmax":
        kernels.logSoftmax(y, x, 4 * width, rows, stage.width, stage.group);
    }
  }

  #writeOutput(): void {
    const { output, outputWidth } = this.#program;
    const from = this.#slot(output);
    if (from === this.#tile.y) return;
    this.#kernels.copyRows(
      this.#tile.y,
      4 * outputWidth,
      from,
      4 * this.#width(output),
      4 * outputWidth,
      this.#rows,
    );
  }

  #slot(index: number): number {
    return this.#slots[index] as number;
  }

  #width(index: number): number {
    return this.#program.slots[index] as number;
  }
}
