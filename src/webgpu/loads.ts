/**
 * What dispatches take of a GPU: threads, what they multiply and add, and what they load, in bytes, from the shapes alone. Columns and
 * tokens that only fill a tile take as long as others. test/webgpu-passes.node.test.ts holds it against the exact count of traffic.ts.
 */
import type { Passes } from "../backend.js";
import { type Dispatch, scheduled } from "./dispatches.js";
import { type Segment, tileOf } from "./pipelines.js";
import { T, type Tile, type Tiles, threadsOf, tilesOver } from "./tiles.js";

/** What one segment takes: of `waits`, bytes that one workgroup of each dispatch loads. */
type Loads = Omit<Passes, "tables">;

/** Of a segment, none of whose tokens are thinned. */
export function loadsOf(dispatches: readonly Dispatch[], segment: Segment, tiles: Tiles): Loads {
  const sum = { dispatches: 0, flops: 0, threads: 0, loads: 0, waits: 0 };
  for (const { dispatch, on } of scheduled(dispatches, segment, true, false)) {
    const { kernel, sizes, workgroups, epilogue = [] } = dispatch;
    const tile = tileOf(tiles, kernel);
    const groups = workgroups(on, tile);
    const count = (flops: number) => {
      sum.flops += groups * flops;
    };
    let one = loadsOfGroup(kernel, sizes, on, tile, count);
    const width = sizes[kernel === "dense" ? 1 : 0] as number;
    const values = tile.chunks * T * Math.min(tile.cols * tile.lanes, width);
    for (const statement of epilogue) {
      count(values * flopsOf(statement));
      if (statement.includes("other(")) one += 4 * values;
    }
    sum.dispatches++;
    sum.threads += groups * (kernel === "carryScan" || kernel === "pool" ? 256 : threadsOf(tile));
    sum.loads += groups * one;
    sum.waits += one;
  }
  return sum;
}

/** Of an epilogue's statement for a value, as program.ts counts stages; threads that add up a row wait for each other at every turn. */
function flopsOf(statement: string): number {
  if (statement.startsWith("norm ")) return 48;
  return statement.includes("Of(") ? 24 : 6;
}

/** Tells of what it multiplies and adds in products: what else it computes is little beside its loads. */
function loadsOfGroup(
  kernel: Dispatch["kernel"],
  [width = 0, other = 0, factor = 0]: readonly number[],
  { rows, chunks, tokens }: Segment,
  tile: Tile,
  count: (flops: number) => void,
): number {
  const breadth = tile.cols * tile.lanes;
  /** For each of the summed: a weight for each column of each thread, of a number or two, and `staged` bytes for each token. */
  const product = (summed: number, weight: number, staged: number) => {
    count((summed * tile.chunks * T * breadth * weight) / 2);
    return summed * tile.chunks * (T * staged + (weight * breadth * T) / tile.rows);
  };
  switch (kernel) {
    case "projectScan":
      return product(width, 8, 6);
    case "output":
      return product(other, 8, 22) + 4 * T * tile.chunks * breadth;
    case "liftedOutput":
      return product(other, 8, 22) + product((width + Math.max(factor, Math.min(width, breadth))) / 2, 4, 6);
    case "oneChunk":
      return product(tilesOver(tile, 1, other) * width, 8, 4) + product(other, 8, 0) + 4 * T * width;
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
