/**
 * How the matrix products share their work among threads. Every tile does the same arithmetic in the same order.
 *
 * A thread of ROWS timesteps x COLS columns does as many multiply-adds (twice, for complex states) for ROWS / 4 + COLS loads;
 * a workgroup reads each weight for all of its timesteps from the cache near it, and so asks the one behind it, for a weight,
 * once per CHUNKS x T timesteps. With one chunk that is 32 complex multiply-adds for 8 bytes, less than most GPUs
 * need to be busy; with four it is 128.
 */
import type { Device } from "./device.js";

/** Timesteps in a chunk: as many accumulators (twice, re and im) as a thread keeps in registers on any GPU. */
export const T = 32;

export type TiledKernel = "projectScan" | "output" | "liftedOutput" | "oneChunk" | "dense";

export interface Tile {
  /** Timesteps of a thread: a multiple of 4 that divides T. */
  readonly rows: number;
  /** Columns of a thread, `lanes` apart. */
  readonly cols: number;
  /** Threads side by side, so that their columns are side by side in memory. */
  readonly lanes: number;
  /** Chunks of a workgroup. */
  readonly chunks: number;
  /** Columns of the left matrix staged at a time, at most. */
  readonly slab: number;
}

const tile = (rows: number, cols: number, lanes: number, chunks: number): Tile => ({
  ...{ rows, cols, lanes, chunks },
  slab: 32,
});

/** Works on every device, and is as good as any where there is little to do. */
export const plainTile = tile(T, 1, 64, 1);

/** Accumulators are what registers have room for: 64 words in a thread. A complex column has two. */
const complex = [plainTile, tile(T, 1, 64, 4), tile(16, 2, 32, 4), tile(8, 4, 16, 4), tile(8, 4, 32, 4)];
const real = [plainTile, tile(T, 1, 64, 4), tile(T, 2, 64, 2), tile(8, 8, 16, 4), tile(8, 8, 32, 4)];

/** Workgroup memory that every device has. */
const SLAB_BYTES = 16384;

export type Tiles = Readonly<Record<TiledKernel, Tile>>;

/** A row has one workgroup: as many threads as every device allows, so that few rows keep more of it busy. */
export const plainTiles = { ...allOf(plainTile), oneChunk: tile(8, 1, 64, 1) };

/** SwiftShader compiles a store for each value of workgroup memory: with the plain tile that is a second a kernel. */
export const softwareTiles = allOf({ ...plainTile, slab: 8 });

function allOf(tile: Tile): Tiles {
  return { projectScan: tile, output: tile, liftedOutput: tile, oneChunk: tile, dense: tile };
}

/** Workgroups for a matrix of some chunks and columns. */
export function tilesOver({ chunks, cols, lanes }: Tile, height: number, width: number): number {
  return Math.ceil(height / chunks) * Math.ceil(width / (cols * lanes));
}

export function threadsOf({ rows, lanes, chunks }: Tile): number {
  return (lanes * chunks * T) / rows;
}

/** Columns of the left matrix staged at a time: of re and im in `output`. */
export function slabOf(kernel: TiledKernel, { chunks, slab }: Tile): number {
  return Math.min(slab, SLAB_BYTES / ((kernel === "projectScan" || kernel === "dense" ? 4 : 8) * T * chunks));
}

/** The tiles that a device can run, the plain one first. */
export function tilesFor(kernel: TiledKernel, { handle }: Device): Tile[] {
  const { maxComputeInvocationsPerWorkgroup: most, maxComputeWorkgroupSizeX: widest } = handle.limits;
  if (kernel === "oneChunk") return [plainTiles.oneChunk];
  const all = kernel === "projectScan" ? complex : real;
  return all.filter((tile) => threadsOf(tile) <= Math.min(most, widest));
}

/** What a kernel is compiled with for a tile. */
export function tileConstants(kernel: TiledKernel, tile: Tile): string {
  const constants = {
    ROWS: tile.rows,
    COLS: tile.cols,
    LANES: tile.lanes,
    CHUNKS: tile.chunks,
    QUADS: tile.rows / 4,
    PARTS: T / tile.rows,
    TILE: (tile.chunks * T) / 4,
    THREADS: threadsOf(tile),
    WIDTH: tile.lanes * tile.cols,
    SLAB: slabOf(kernel, tile),
  };
  return Object.entries(constants)
    .map(([name, value]) => `const ${name} = ${value}u;\n`)
    .join("");
}
