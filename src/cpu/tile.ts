/** What a {@link TileRunner} is given: a tile of one sequence, or one token of each of some rows. */
import { CHUNK } from "../state.js";
import { lastAt } from "../timeline.js";

/** Where a tile's data is, all of it in the memory of the kernels. */
export interface Tile {
  /** [tokens, inputWidth] float32 */
  x: number;
  /** [tokens, outputWidth] float32, or [outputWidth] of a program that pools: written by the row's last tile only */
  y: number;
  /** > 0 */
  tokens: number;
  /** Whether x and y are where the tile's first token is, and each further one lies before the last. */
  reversed: boolean;
  /** Whether outputs are added to what stands in y. */
  adds: boolean;
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
    reversed: false,
    adds: false,
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

/** Chunks that a run of tokens touches: rows of the carries. */
export function chunksOf(tokens: number, k0: number): number {
  return tokens && Math.ceil((k0 + tokens) / CHUNK);
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
