/** A window of a forward in memory, and its tiles. Threads that share it: `share.ts`. */
import { lastAt } from "../timeline.js";
import type { PackedProgram } from "./packed.js";
import { Control, RowTable, type Window } from "./protocol.js";
import { noTile, type Tile, tileStart } from "./tile.js";
import type { TileRunner } from "./tiles.js";

/**
 * Runs a whole window on this thread, row after row; where that can be, a row in one call of a kernel: between two calls of one
 * (some 0.1 ms) all of the host's code and data leave the caches.
 */
export function runWindow(
  runner: TileRunner,
  program: PackedProgram,
  memory: WebAssembly.Memory,
  window: Window,
): void {
  const table = new RowTableView(memory, window.table, window.rows);
  const tile = noTile();
  const whole = program.whole && window.every === 1 && !window.times && !window.reversed;
  const oneTile = { ...window, tileTokens: 2 ** 31 };
  for (let row = 0; row < window.rows; row++) {
    const uncut = whole && !table.int(row, RowTable.resetCount);
    for (let i = 0; locate(tile, program, uncut ? oneTile : window, table, row, i); i++)
      runner.run(tile, uncut);
  }
}

/** Whoever computes the window ends after the tile it is at. */
export function stopWindow({ buffer }: WebAssembly.Memory, { control }: Window): void {
  Atomics.store(new Int32Array(buffer, control), Control.stop, 1);
}

const noResets = { positions: new Int32Array(), given: new Int32Array() };

/** A row of the row table. */
export interface TableRow {
  readonly tokens: number;
  readonly k0: number;
  readonly last: boolean;
  readonly phase: number;
  readonly count: number;
  /** Ascending, and the outputs that the row gives before each. */
  readonly resets: ArrayLike<number>;
  readonly given: ArrayLike<number>;
}

/** The row table of a window, whose rows are written in their order. */
export class RowTableView {
  readonly #ints: Int32Array;
  readonly #floats: Float64Array;
  /** Where the resets of the next row go. */
  #marks: number;

  constructor(memory: WebAssembly.Memory, address: number, rows: number) {
    this.#ints = new Int32Array(memory.buffer, address);
    this.#floats = new Float64Array(memory.buffer, address);
    this.#marks = (rows * RowTable.bytes) / 4;
  }

  /** Bytes of a table with so many resets in all. */
  static bytes(rows: number, resets: number): number {
    return rows * RowTable.bytes + 8 * resets;
  }

  write(row: number, { tokens, k0, last, phase, count, resets, given }: TableRow): void {
    const ints = this.#ints;
    const at = (row * RowTable.bytes) / 4;
    ints[at + RowTable.tokens] = tokens;
    ints[at + RowTable.k0] = k0;
    ints[at + RowTable.last] = Number(last);
    ints[at + RowTable.phase] = phase;
    ints[at + RowTable.resets] = this.#marks;
    ints[at + RowTable.resetCount] = resets.length;
    this.#floats[(row * RowTable.bytes) / 8 + RowTable.count] = count;
    if (resets.length === 0) return;
    ints.set(resets, this.#marks);
    ints.set(given, this.#marks + resets.length);
    this.#marks += 2 * resets.length;
  }

  int(row: number, field: number): number {
    return this.#ints[(row * RowTable.bytes) / 4 + field] as number;
  }

  count(row: number): number {
    return this.#floats[(row * RowTable.bytes) / 8 + RowTable.count] as number;
  }

  /** The row's resets, and the outputs before each. */
  resets(row: number): { positions: Int32Array; given: Int32Array } {
    const count = this.int(row, RowTable.resetCount);
    if (count === 0) return noResets;
    const at = this.int(row, RowTable.resets);
    return {
      positions: this.#ints.subarray(at, at + count),
      given: this.#ints.subarray(at + count, at + 2 * count),
    };
  }
}

/** Fills in tile `index` of `row`; false if the row has no such tile. All tiles but the first start at a chunk's start. */
export function locate(
  tile: Tile,
  program: PackedProgram,
  window: Window,
  table: RowTableView,
  row: number,
  index: number,
): boolean {
  const { every } = window;
  const tokens = table.int(row, RowTable.tokens);
  const k0 = table.int(row, RowTable.k0);
  const { positions, given } = table.resets(row);
  const start = tileStart(Math.max(startOf(window, index) - k0, 0), tokens, positions);
  if (start >= tokens) return false;
  const end = tileStart(Math.max(startOf(window, index + 1) - k0, 0), tokens, positions);
  const reset = lastAt(positions, start);
  const origin = reset < 0 ? -table.int(row, RowTable.phase) : (positions[reset] as number);
  const outputs = Math.floor((start - origin) / every) + (given[reset] ?? 0);
  tile.reversed = window.reversed === 1;
  const [from, to] = tile.reversed ? [tokens - 1 - start, tokens - 1 - start] : [start, outputs];
  tile.x = window.x + row * window.xRowBytes + 4 * from * program.inputWidth;
  tile.y = window.y + row * window.yRowBytes + (program.pooled ? 0 : 4 * to * program.outputWidth);
  tile.adds = window.adds === 1;
  tile.tokens = end - start;
  tile.k0 = index === 0 ? k0 : 0;
  tile.state = window.states + row * program.layout.rowBytes;
  tile.last = end === tokens && table.int(row, RowTable.last) === 1;
  tile.count = table.count(row);
  tile.times = window.times && window.times + row * window.timesRowBytes + 4 * start;
  tile.phase = (start - origin) % every;
  tile.every = every;
  tile.resets.length = 0;
  for (let i = lastAt(positions, start - 1) + 1; i < positions.length && (positions[i] as number) < end; i++)
    tile.resets.push((positions[i] as number) - start);
  return true;
}

/** Tokens of the grid before tile `index` of a row. */
function startOf({ tileTokens, tail, tailTokens }: Window, index: number): number {
  return index <= tail ? index * tileTokens : tail * tileTokens + (index - tail) * tailTokens;
}
