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
import { lastAt } from "../timeline.js";
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
  /** The tile's tokens before which the state is zeroed, ascending. */
  resets: number[];
  /** Tokens since the state's origin before the tile, modulo `every`. */
  phase: number;
  /** Only tokens every, 2 every, ... since the state's origin give an output. */
  every: number;
}

/** No tokens, no resets, every output. */
export const noTile = (): Tile => {
  return {
    x: 0,
    y: 0,
    tokens: 0,
    k0: 0,
    state: 0,
    last: false,
    count: 0,
    times: 0,
    resets: [],
    phase: 0,
    every: 1,
  };
};

/**
 * Where a tile starts that would start at token `nominal` of a row of `tokens` tokens, on the row's grid of chunks: there, or
 * at what is before it and on the grid where a reset has started that anew.
 */
export function tileStart(nominal: number, tokens: number, resets: ArrayLike<number>): number {
  if (nominal >= tokens || resets.length === 0) return Math.min(nominal, tokens);
  const reset = lastAt(resets, nominal);
  return reset < 0 ? nominal : nominal - ((nominal - (resets[reset] as number)) % CHUNK);
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
  readonly #fresh: number;
  readonly #lambdas: number;
  #tile!: Tile;
  /** Tokens before the tile's first reset: those that need the row's state. */
  #head = 0;
  /** Rows of the slots: the tile's tokens, 1 after a pool. */
  #rows = 0;
  /** Whether the LRU stage under way has h of the head already, and not loc. */
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
    this.#fresh = scratch + program.scratch.fresh;
    this.#lambdas = scratch + program.scratch.lambdas;
  }

  /** Chunks that a run of tokens touches: rows of the carries. */
  static chunks(tokens: number, k0: number): number {
    return tokens && Math.ceil((k0 + tokens) / CHUNK);
  }

  /** Address of the state of the stage under way after a tile with a reset: carry, then loc, as {@link project} leaves them. */
  get fresh(): number {
    return this.#fresh;
  }

  /** Rows of y that the tile has given. */
  get rows(): number {
    return this.#rows;
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
    this.#head = tile.resets[0] ?? tile.tokens;
    this.#place(tile.x, tile.y, tile.tokens, tile.every === 1);
    if (this.#program.lastCarry < 0) this.#thin();
  }

  /** Points the slots at x and y where these need no padding, else at scratch. */
  #place(x: number, y: number, rows: number, all = true): void {
    const { inputWidth, outputWidth, output, pooled, slots } = this.#program;
    this.#rows = rows;
    if (slots[0] === inputWidth) {
      this.#slots[0] = x;
    } else {
      const to = this.#scratchSlots[0] as number;
      this.#kernels.copyRows(to, 4 * (slots[0] as number), x, 4 * inputWidth, 4 * inputWidth, rows);
    }
    // Where y has fewer rows than x, stages that run on all of them must not use y's memory.
    const direct = all && !pooled && slots[output] === outputWidth;
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

  /**
   * The part of a carrying stage that needs no carry: loc of each token, or a pool's sum of each chunk. From a reset on no
   * carry is missing: h of each token.
   */
  project(at: number): void {
    const stage = this.#carryStage(at);
    const { state, tokens, k0, resets, times } = this.#tile;
    const x = this.#slot(stage.src);
    const width = this.#width(stage.src);
    if (times !== 0) {
      if (stage.kind === "lru") this.#projectRows(stage);
      return;
    }
    if (stage.kind === "poolAll") {
      const from = resets.at(-1) ?? 0;
      const k = resets.length > 0 ? 0 : k0;
      this.#kernels.poolLocal(
        this.#carries,
        x + 4 * width * from,
        state + stage.loc,
        tokens - from,
        k,
        CHUNK,
        width,
        stage.isMax,
      );
      return;
    }
    const { dModel, groups } = stage;
    const [B, lambda] = [this.#image + stage.B, this.#image + stage.lambda];
    this.#hasHidden = false;
    this.#restart(stage, this.#fresh, this.#fresh + 64 * groups);
    if (this.#head === 0) return;
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.projectScan(
      this.#h, this.#carries, x, 4 * width, B, lambda, state + stage.loc, this.#head, k0, CHUNK, dModel, groups,
    );
  }

  /** Advances the row's state past this tile, after {@link project}: the row's previous tile must have committed the stage. */
  commit(at: number): void {
    const stage = this.#carryStage(at);
    const { state, tokens, k0, resets, times } = this.#tile;
    const carry = state + stage.carry;
    const loc = state + stage.loc;
    const isReset = resets.length > 0;
    if (times !== 0) {
      this.#commitTimed(stage, carry, loc, times);
      return;
    }
    if (stage.kind === "poolAll") {
      const width = this.#width(stage.src);
      if (isReset) this.#copy(carry, this.#image + stage.empty, 8 * width);
      const length = tokens - (resets.at(-1) ?? 0);
      this.#kernels.poolCarry(carry, loc, this.#carries, length, isReset ? 0 : k0, CHUNK, width, stage.isMax);
      return;
    }
    const lambdaT = this.#image + stage.lambdaT;
    const { groups } = stage;
    if (this.#head > 0)
      this.#kernels.carryScan(this.#carries, carry, loc, this.#h, lambdaT, this.#head, k0, CHUNK, groups);
    if (!isReset) return;
    this.#copy(carry, this.#fresh, 64 * groups);
    this.#copy(loc, this.#fresh + 64 * groups, 32 * groups);
  }

  #commitTimed(stage: Stage<"lru" | "poolAll">, carry: number, loc: number, times: number): void {
    const { tokens, resets } = this.#tile;
    const isLru = stage.kind === "lru";
    if (isLru) this.#scanTimed(stage, this.#h, carry, times, this.#head);
    else if (resets.length === 0) this.#sumTokens(stage, carry, loc, 0);
    for (const [i, start] of resets.entries()) {
      const end = resets[i + 1] ?? tokens;
      if (isLru) {
        this.#zeroCarry(stage, carry);
        this.#scanTimed(stage, this.#h + 32 * stage.groups * start, carry, times + 4 * start, end - start);
      } else if (end === tokens) {
        this.#copy(carry, this.#image + stage.empty, 8 * this.#width(stage.src));
        this.#sumTokens(stage, carry, loc, start);
      }
    }
  }

  #zeroCarry({ zeros, groups }: Stage<"lru">, carry: number): void {
    this.#kernels.copyRows(carry, 32 * groups, this.#image + zeros, 0, 32 * groups, 2);
  }

  /** {@link project} and {@link commit} in one: the row's previous tile must have committed the stage. */
  advance(at: number): void {
    const stage = this.#carryStage(at);
    if (stage.kind === "poolAll" || this.#tile.times !== 0) {
      this.project(at);
      this.commit(at);
      return;
    }
    const { state, k0 } = this.#tile;
    const [carry, loc] = [state + stage.carry, state + stage.loc];
    this.#hasHidden = true;
    if (this.#head > 0) this.#projectHidden(stage, carry, loc, 0, this.#head, k0);
    this.#restart(stage, carry, loc);
  }

  /** h of the tokens from the tile's first reset on, and the state after them. */
  #restart(stage: Stage<"lru">, carry: number, loc: number): void {
    const { resets, tokens } = this.#tile;
    for (let i = 0; i < resets.length; i++) {
      this.#zeroCarry(stage, carry);
      const start = resets[i] as number;
      this.#projectHidden(stage, carry, loc, start, (resets[i + 1] ?? tokens) - start, 0);
    }
  }

  #projectHidden(
    stage: Stage<"lru">,
    carry: number,
    loc: number,
    start: number,
    tokens: number,
    k0: number,
  ): void {
    const { dModel, groups } = stage;
    const image = this.#image;
    const xBytes = 4 * this.#width(stage.src);
    // biome-ignore format: the kernel's arguments, outputs first
    this.#kernels.projectHidden(
      this.#h + 32 * groups * start, this.#carries, carry, loc, this.#slot(stage.src) + xBytes * start, xBytes,
      image + stage.B, image + stage.lambda, image + stage.lambdaT, image + stage.powers,
      tokens, k0, CHUNK, dModel, groups,
    );
  }

  /** Finishes a stage whose carries are there. Returns the stage to go on from, or FINISHED if the tile ends here. */
  apply(at: number): number {
    const stage = this.#carryStage(at);
    if (stage.kind === "lru") {
      this.#addCarry(stage);
      if (at === this.#program.lastCarry) this.#thin(32 * stage.groups);
      if (this.#rows === 0) return FINISHED;
      this.#projectOutput(stage);
      return at + 1;
    }
    if (!this.#tile.last) return FINISHED;
    const { state, count } = this.#tile;
    const [y, width] = [this.#slot(stage.dst), this.#width(stage.dst)];
    this.#kernels.poolResult(y, state + stage.carry, state + stage.loc, count, width, stage.isMax);
    this.#rows = 1;
    return at + 1;
  }

  #addCarry({ powers, groups }: Stage<"lru">): void {
    if (this.#hasHidden || this.#head === 0) return;
    this.#kernels.addCarry(
      this.#h,
      this.#image + powers,
      this.#carries,
      this.#head,
      this.#tile.k0,
      CHUNK,
      groups,
    );
  }

  /** Leaves only the tokens that give an output: in the slots that are still read, and in h if it has `hBytes` a token. */
  #thin(hBytes = 0): void {
    const { tokens, resets, phase, every } = this.#tile;
    if (every === 1) return;
    let rows = 0;
    for (let i = -1, start = 0; i < resets.length; i++) {
      if (i >= 0) start = resets[i] as number;
      const end = resets[i + 1] ?? tokens;
      const first = start + every - 1 - (i < 0 ? phase : 0);
      const count = Math.max(0, Math.ceil((end - first) / every));
      // Rows only move towards the front, in order: none is overwritten before it has moved.
      for (const slot of this.#program.live) {
        const bytes = 4 * this.#width(slot);
        const to = (this.#scratchSlots[slot] as number) + rows * bytes;
        this.#kernels.copyRows(to, bytes, this.#slot(slot) + first * bytes, every * bytes, bytes, count);
      }
      const from = this.#h + first * hBytes;
      this.#kernels.copyRows(this.#h + rows * hBytes, hBytes, from, every * hBytes, hBytes, count);
      rows += count;
    }
    for (const slot of this.#program.live) this.#slots[slot] = this.#scratchSlots[slot] as number;
    this.#rows = rows;
  }

  #copy(to: number, from: number, bytes: number): void {
    this.#kernels.copyRows(to, bytes, from, bytes, bytes, 1);
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

  /** Adds the tokens from `start` on to a pool's sum one by one: they are chunks of one token. */
  #sumTokens(stage: Stage<"poolAll">, carry: number, loc: number, start: number): void {
    const { tokens } = this.#tile;
    const width = this.#width(stage.src);
    const most = this.#program.tileTokens / CHUNK; // sums that there is room for
    for (let t = start; t < tokens; t += most) {
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
          stage.centred,
          rows,
          stage.width,
        );
        return;
      case "batchNorm":
        kernels.batchNorm(y, x, image + stage.mean, image + stage.factor, image + stage.bias, rows, width);
        return;
      case "gelu":
        kernels.gelu(y, x, stage.exact, rows * width);
        return;
      case "glu":
        kernels.glu(y, x, this.#slot(stage.gate), stage.silu, rows * width);
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
