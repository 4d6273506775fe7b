/**
 * Takes one tile, up to `tileTokens` tokens of one sequence, through a whole program while it is in cache.
 *
 * A tile stops at every stage that carries state, for its driver to bring the carry (from the previous tile, which
 * another thread may still be computing):
 *
 *     for (let at = runner.local(0); at >= 0; at = runner.local(runner.apply(at))) {
 *       ...wait until the previous tile of the row has committed stage `at`...
 *       runner.commit(at);
 *       ...tell the next tile...
 *     }
 *
 * `local` is all that needs no carry, `commit` the small serial part (a multiply-add for each state and chunk),
 * `apply` what needs the carry. Everything between memory and memory is in the kernels.
 */
import type { Kernels } from "../src/cpu/instantiate.js";
import type { PackedProgram } from "../src/cpu/packed.js";
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
export declare const FINISHED = -1;
export declare class TileRunner {
    #private;
    /** @param image address of the program's image; @param scratch address of a block of `program.scratch.bytes` */
    constructor(kernels: Kernels, program: PackedProgram, image: number, scratch: number);
    /** Chunks that the tile touches: rows of the carries. */
    static chunks(tokens: number, k0: number): number;
    /** Address of the float32 carries into the chunks of the tile, [chunks, groups, 8]: `commit` writes them, `apply` reads them. */
    get carries(): number;
    /** Address of loc of the LRU stage under way, [tokens, groups, 8] float32. */
    get loc(): number;
    /** Runs a whole tile on this thread, given that the row's earlier tiles are done. */
    run(tile: Tile): void;
    begin(tile: Tile): void;
    /** Runs stages from `from` on, until one needs its carry: returns its index, or FINISHED with y written. */
    local(from: number): number;
    /** Advances the row's state past this tile: the previous tile of the row must have committed the stage. */
    commit(at: number): void;
    /** Finishes a stage whose carries are there. Returns the stage to go on from, or FINISHED if the tile ends here. */
    apply(at: number): number;
}
