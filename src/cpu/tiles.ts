/**
 * Takes one tile, up to `tileTokens` tokens of one sequence, through a whole program while it is in cache.
 *
 * A tile stops at every stage that carries state, for its driver to bring the carry from the row's previous tile, which
 * another thread may still be computing:
 *
 *     for (let at = runner.local(0); at !== FINISHED; at = runner.local(runner.apply(at))) {
 *       while (...the previous tile has not committed stage `at`...) if (!runner.project(at)) ...wait for it...
 *       runner.commit(at);
 *       ...tell the next tile...
 *     }
 *
 * `local` runs the stages in between. `project` is some of the stage's work that needs no carry, `commit` the small serial part
 * (a multiply-add for each state and chunk) of what was projected, and all of what was not, which is faster with the carry
 * there, and the same to the bit; `apply` what needs the carries. Everything between memory and memory is in the kernels.
 *
 * The parts of a stage are in `lruTile.ts` and `poolTile.ts`, the stages in between in `slots.ts` and `stages.ts`.
 *
 * Tokens that are some time apart know no chunks, as no table of powers serves them: their scan is all in `commit`, and
 * the state has h in its carry alone.
 */
import type { Kernels } from "./instantiate.js";
import { LruTile } from "./lruTile.js";
import type { PackedProgram, PackedStage, StageOf } from "./packed.js";
import type { PoolTile } from "./poolTile.js";
import { Slots } from "./slots.js";
import type { ModelStages } from "./stages.js";
import type { Step, Tile } from "./tile.js";

export const FINISHED = -1;

export class TileRunner {
  readonly #slots: Slots;
  /** Of the LRU stage under way: what its parts leave for whoever brings the carries. */
  readonly lru: LruTile;
  readonly #models: ModelStages | undefined;
  readonly #pool: PoolTile | undefined;
  #tile!: Tile;

  /**
   * @param image address of the program's image
   * @param scratch address of a block of `program.scratch.bytes`
   * @param models for a model's program
   */
  constructor(
    kernels: Kernels,
    program: PackedProgram,
    image: number,
    scratch: number,
    models: ModelStages | undefined,
  ) {
    this.#slots = new Slots(kernels, program, image, scratch);
    this.lru = new LruTile(this.#slots, scratch);
    this.#models = models;
    this.#pool = models && new models.PoolTile(this.#slots, scratch);
  }

  /**
   * Runs a whole tile on this thread, given that the row's earlier tiles are done.
   * @param whole the tile may have as many tokens as there are: of a program that is `whole`, where all tokens give an output, no
   * state starts anew among them, and they are 1 apart
   */
  run(tile: Tile, whole = false): void {
    this.begin(tile);
    if (whole) this.lru.commit(this.#stage(0) as StageOf<"lru">, true);
    else for (let at = this.local(0); at !== FINISHED; at = this.local(this.apply(at))) this.commit(at);
  }

  /** Reads one token of each row: the operations of {@link run}, stage by stage over all rows, so the same bits. */
  step(step: Step): void {
    const slots = this.#slots;
    slots.place(step.x, step.y, step.rows);
    for (const stage of slots.program.stages) {
      if (stage.kind === "lru") this.lru.step(stage, step);
      else if (stage.kind === "poolAll") this.#pool?.step(stage, step);
      else if (stage.kind === "poolLast") slots.copyRows(stage, slots.at(stage.src));
      else this.#runLocal(stage);
    }
    slots.writeOutput(step.y);
  }

  begin(tile: Tile): void {
    this.#tile = tile;
    this.lru.begin(tile);
    this.#pool?.begin(tile);
    this.#slots.place(tile.x, tile.y, tile.tokens, tile.every === 1, tile.reversed);
    if (this.#slots.program.lastCarry < 0) this.#slots.thin(tile, 0, 0);
  }

  /** Runs stages from `from` on, until one carries state: returns its index, or FINISHED with y written. */
  local(from: number): number {
    const slots = this.#slots;
    const { stages } = slots.program;
    if (from === FINISHED) return FINISHED;
    for (let i = from; i < stages.length; i++) {
      const stage = stages[i] as PackedStage;
      if (stage.kind === "lru" || stage.kind === "poolAll") return i;
      if (stage.kind === "poolLast") {
        if (!this.#tile.last) return FINISHED;
        slots.copyRows(stage, slots.at(stage.src) + 4 * (slots.rows - 1) * slots.width(stage.src), 1);
      } else {
        this.#runLocal(stage);
      }
    }
    const { y, reversed, adds } = this.#tile;
    slots.writeOutput(y, reversed, adds);
    return FINISHED;
  }

  /** Some of a carrying stage that needs no carry. Returns whether there is more of it. */
  project(at: number): boolean {
    const stage = this.#stage(at);
    if (stage.kind === "lru") return this.lru.project(stage);
    this.#pool?.project(stage);
    return false;
  }

  /**
   * Advances the row's state past this tile: the row's previous tile must have committed the stage. What was not projected is
   * computed with its carry at once, which is faster.
   */
  commit(at: number): void {
    const stage = this.#stage(at);
    if (stage.kind === "lru") this.lru.commit(stage);
    else this.#pool?.commit(stage);
  }

  /** Finishes a stage whose carries are there. Returns the stage to go on from, or FINISHED if the tile ends here. */
  apply(at: number): number {
    const stage = this.#stage(at);
    if (stage.kind === "poolAll") return this.#pool?.apply(stage) ? at + 1 : FINISHED;
    this.lru.apply(stage, at === this.#slots.program.lastCarry);
    return this.#slots.rows > 0 ? at + 1 : FINISHED;
  }

  #runLocal(stage: PackedStage): void {
    if (stage.kind === "add") this.#slots.add(stage);
    else this.#models?.run(this.#slots, stage);
  }

  #stage(at: number): StageOf<"lru" | "poolAll"> {
    return this.#slots.program.stages[at] as StageOf<"lru" | "poolAll">;
  }
}
