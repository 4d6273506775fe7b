/**
 * What dispatches take of a GPU beyond multiplying and adding: what their threads load, in bytes, from the shapes alone. Columns that only
 * fill a tile are loaded too. test/webgpu-passes.node.test.ts holds it against the exact count of traffic.ts.
 */
import { type Dispatch, scheduled } from "./dispatches.js";
import { type Segment, tileOf } from "./pipelines.js";
import { T, type Tile, type Tiles, tilesOver } from "./tiles.js";

/**
 * @returns how many of the dispatches a segment takes (none of its tokens thinned), what all their workgroups load, and what one
 *   workgroup of each does
 */
export function loadsOf(
  dispatches: readonly Dispatch[],
  segment: Segment,
  tiles: Tiles,
): { dispatches: number; loads: number; waits: number } {
  const sum = { dispatches: 0, loads: 0, waits: 0 };
  for (const { dispatch, on } of scheduled(dispatches, segment, true, false)) {
    const { kernel, sizes, workgroups } = dispatch;
    const tile = tileOf(tiles, kernel);
    const one = loadsOfGroup(kernel, sizes, on, tile);
    sum.dispatches++;
    sum.loads += workgroups(on, tile) * one;
    sum.waits += one;
  }
  return sum;
}

function loadsOfGroup(
  kernel: Dispatch["kernel"],
  [width = 0, other = 0, factor = 0]: readonly number[],
  { rows, chunks, tokens }: Segment,
  tile: Tile,
): number {
  const breadth = tile.cols * tile.lanes;
  /** For each of the summed: a weight for each column of each thread, and `staged` bytes for each token. */
  const product = (summed: number, weight: number, staged: number) =>
    summed * tile.chunks * (T * staged + (weight * breadth * T) / tile.rows);
  switch (kernel) {
    case "projectScan":
      return product(width, 8, 6);
    case "output":
      return product(other, 8, 22) + 4 * T * tile.chunks * breadth;
    case "liftedOutput":
      return product(other, 8, 22) + product((width + Math.min(width, breadth)) / 2, 4, 6);
    case "oneChunk":
      return tilesOver(tile, 1, other) * product(width, 8, 4) + product(other, 8, 0) + 4 * T * width;
    case "dense":
      return product(width, 4, 4);
    case "carryScan":
      return 18432 + (160 * chunks) / rows; // four states: of each 256 threads, and of the chunks
    case "timedScan":
      return (64 * 28 * tokens) / rows;
    case "pool":
      return 8192 + (64 * tokens) / rows;
    case "layerNorm":
      return 20 * width;
    case "logSoftmax":
      return 64 * 12 * other;
    case "window":
      return 64 * (16 + 4 * factor);
    default:
      return 64 * 12;
  }
}
