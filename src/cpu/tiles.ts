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
 *
 * Tokens that are some time apart know no chunks, as no table of powers serves them: their scan is all in `commit`, and
 * the state has h in its carry alone.
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
  /** [tokens] float32: how far each token is from the one before it, k0 being 0; 0 where all are 1 apart. */
  times: number;
}

/** One token of each of some rows, in the memory of the kernels. */
export interface Step {
  /** [rows, inputWidth] float32 */
  x: number;
  /** [rows, outputWidth] float32 */
  y: number;
  /** > 0, at most the program's tileTokens */
  rows: number;
  /** The first row's state block; the others follow. */
  states: number;
  /** [rows] int32: tokens of its chunk that each row has read; left for the caller to advance */
  ks: number;
  /** [rows] float64: tokens since each state's origin, this one included */
  counts: number;
  /** [rows] float32, ks being 0, or 0: as a tile's */
  times: number;
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
  readonly #lambdas: number;
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
    this.#lambdas = scratch + program.scratch.lambdas;
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

  /** Reads one token of each row: the operations of {@link run}, stage by stage over all rows, so the same bits. */
  step({ x, y, rows, states, ks, counts, times }: Step): void {
    this.#place(x, y, rows);
    const chunk = times === 0 ? CHUNK : 1;
    for (const stage of this.#program.stages) {
      if (stage.kind === "lru") this.#stepLru(stage, states, ks, times);
      else if (stage.kind === "poolAll") this.#stepPool(stage, states, ks, counts, chunk);
      else if (stage.kind === "poolLast") this.#copyRows(stage, this.#slot(stage.src));
      else this.#runLocal(stage);
    }
    this.#writeOutput(y);
  }

  begin(tile: Tile): void {
    this.#tile = tile;
    this.#place(tile.x, tile.y, tile.tokens);
  }

  /** Points the slots at x and y where these need no padding, else at scratch. */
  #place(x: number, y: number, rows: number): void {
    const { inputWidth, outputWidth, output, pooled, slots } = this.#program;
    this.#rows = rows;
    if (slots[0] === inputWidth) {
      this.#slots[0] = x;
    } else {
      const to = this.#scratchSlots[0] as number;
      this.#kernels.copyRows(to, 4 * (slots[0] as number), x, 4 * inputWidth, 4 * inputWidth, rows);
    }
    // A pool's program writes y only once, so its stages before the pool must not use y's memory.
    const direct = !pooled && slots[output] === outputWidth;
    this.#slots[output] = direct ? y : (this.#scratchSlots[output] as number);
  }

  /** Runs stages from `from` on, until one carries state: returns its index, or FINISHED with y written. */
  local(from: number): number {
    const { stages } = this.#program;
    if (from === FINISHED) return FINISHED;
    for (let i = from; i < stages.length; i++) {
      const stage = stages[i] as PackedStage;
      if (stage.kind === "lru" || stage.kind === "poolAll") return i;
      if (stage.kind === "poolLast") {
        if (!this.#tile.last) return FINISHED;
        this.#copyRows(stage, this.#slot(stage.src) + 4 * (this.#rows - 1) * this.#width(stage.src), 1);
      } else {
        this.#runLocal(stage);
      }
    }
    this.#writeOutput(this.#tile.y);
    return FINISHED;
  }

  /** The part of a carrying stage that needs no carry: loc of each token, or a pool's sum of each chunk. */
  project(at: number): void {
    const stage = this.#carryStage(at);
    const { state, tokens, k0, times } = this.#tile;
    const x = this.#slot(stage.src);
    const width = this.#width(stage.src);
    if (times !== 0) {
      if (stage.kind === "lru") this.#projectRows(stage);
      return;
    }
    if (stage.kind === "poolAll") {
      this.#kernels.poolLocal(this.#carries, x, state + stage.loc, tokens, k0, CHUNK, width, stage.isMax);
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
    const { state, tokens, k0, times } = this.#tile;
    const carry = state + stage.carry;
    const loc = state + stage.loc;
    if (times !== 0) {
      if (stage.kind === "lru") this.#scanTimed(stage, this.#h, carry, times, tokens);
      else this.#sumTokens(stage, carry, loc, tokens);
    } else if (stage.kind === "lru") {
      const lambdaT = this.#image + stage.lambdaT;
      this.#kernels.carryScan(this.#carries, carry, loc, this.#h, lambdaT, tokens, k0, CHUNK, stage.groups);
    } else {
      const width = this.#width(stage.src);
      this.#kernels.poolCarry(carry, loc, this.#carries, tokens, k0, CHUNK, width, stage.isMax);
    }
  }

  /** {@link project} and {@link commit} in one: the row's previous tile must have committed the stage. */
  advance(at: number): void {
    const stage = this.#carryStage(at);
    if (stage.kind === "poolAll" || this.#tile.times !== 0) {
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
    const [y, width] = [this.#slot(stage.dst), this.#width(stage.dst)];
    this.#kernels.poolResult(y, state + stage.carry, state + stage.loc, count, width, stage.isMax);
    this.#rows = 1;
    return at + 1;
  }

  #output(stage: Stage<"lru">): void {
    const { tokens, k0 } = this.#tile;
    if (!this.#hasHidden) {
      const powers = this.#image + stage.powers;
      this.#kernels.addCarry(this.#h, powers, this.#carries, tokens, k0, CHUNK, stage.groups);
    }
    this.#projectOutput(stage);
  }

  #carryStage(at: number): Stage<"lru" | "poolAll"> {
    return this.#program.stages[at] as Stage<"lru" | "poolAll">;
  }

  /** y = Re(C h) + D * u */
  #projectOutput({ src, dst, C, D, groups, outWidth }: Stage<"lru">): void {
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.output(
      this.#slot(dst), 4 * this.#width(dst), this.#h, this.#image + C, this.#image + D,
      this.#slot(src), 4 * this.#width(src), this.#rows, 8 * groups, outWidth,
    );
  }

  /** bu of every row, in the place of h. */
  #projectRows({ src, B, zeros, dModel, groups }: Stage<"lru">): void {
    this.#hasHidden = true;
    // The panels of B are those of a dense stage with a column for each part of a state: bu for all rows at once.
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.dense(
      this.#h, 32 * groups, this.#slot(src), 4 * this.#width(src), this.#image + B, this.#image + zeros, this.#rows,
      dModel, 8 * groups,
    );
  }

  /** h of `tokens` tokens of a row, in the place of their bu. */
  #scanTimed({ rates, groups }: Stage<"lru">, h: number, carry: number, times: number, tokens: number): void {
    this.#kernels.timedScan(h, carry, this.#lambdas, this.#image + rates, times, tokens, groups);
  }

  /** Adds tokens to a pool's sum one by one: they are chunks of one token. */
  #sumTokens(stage: Stage<"poolAll">, carry: number, loc: number, tokens: number): void {
    const width = this.#width(stage.src);
    const most = this.#program.tileTokens / CHUNK; // sums that there is room for
    for (let t = 0; t < tokens; t += most) {
      const count = Math.min(most, tokens - t);
      const x = this.#slot(stage.src) + 4 * t * width;
      this.#kernels.poolLocal(this.#carries, x, loc, count, 0, 1, width, stage.isMax);
      this.#kernels.poolCarry(carry, loc, this.#carries, count, 0, 1, width, stage.isMax);
    }
  }

  #stepLru(stage: Stage<"lru">, states: number, ks: number, times: number): void {
    const { groups, carry, loc } = stage;
    const { rowBytes } = this.#program.layout;
    const image = this.#image;
    this.#projectRows(stage);
    if (times !== 0) {
      for (let row = 0; row < this.#rows; row++) {
        const h = this.#h + 32 * groups * row;
        this.#scanTimed(stage, h, states + row * rowBytes + carry, times + 4 * row, 1);
      }
    } else {
      // biome-ignore format: the kernel's arguments, outputs first
      this.#kernels.stepScan(
        this.#h, this.#carries, states + carry, states + loc, rowBytes, ks,
        image + stage.lambda, image + stage.lambdaT, image + stage.powers, CHUNK, this.#rows, groups,
      );
    }
    this.#projectOutput(stage);
  }

  #stepPool(
    { src, dst, carry, loc, isMax }: Stage<"poolAll">,
    states: number,
    ks: number,
    counts: number,
    chunk: number,
  ): void {
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.poolStep(
      this.#slot(dst), this.#slot(src), this.#carries, states + carry, states + loc, this.#program.layout.rowBytes, ks, counts,
      chunk, this.#rows, this.#width(src), isMax,
    );
  }

  /** dst = rows of src from an address on. */
  #copyRows({ dst }: Stage<"poolLast">, from: number, rows = this.#rows): void {
    const bytes = 4 * this.#width(dst);
    this.#kernels.copyRows(this.#slot(dst), bytes, from, bytes, bytes, rows);
    this.#rows = rows;
  }

  #runLocal(stage: Exclude<PackedStage, { kind: "lru" | "poolAll" | "poolLast" }>): void {
    const kernels = this.#kernels;
    const image = this.#image;
    const rows = this.#rows;
    const y = this.#slot(stage.dst);
    const x = this.#slot(stage.src);
    const width = this.#width(stage.dst);
    switch (stage.kind) {
      case "embedding":
        kernels.embedding(y, x, image + stage.table, rows, width, stage.vocabulary);
        return;
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

  #writeOutput(y: number): void {
    const { output, outputWidth } = this.#program;
    const from = this.#slot(output);
    if (from === y) return;
    const bytes = 4 * outputWidth;
    this.#kernels.copyRows(y, bytes, from, 4 * this.#width(output), bytes, this.#rows);
  }

  #slot(index: number): number {
    return this.#slots[index] as number;
  }

  #width(index: number): number {
    return this.#program.slots[index] as number;
  }
}
