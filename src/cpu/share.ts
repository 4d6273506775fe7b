/**
 * A window in shared memory, tile by tile, by many threads. Tiles are taken in order, so whoever waits for a carry waits for a
 * tile that some thread has taken and is running: there is no deadlock, and no barrier.
 */
import { macrotask } from "../runtime/macrotask.js";
import type { PackedProgram } from "./packed.js";
import { Control, type Window } from "./protocol.js";
import { noTile } from "./tile.js";
import { FINISHED, type TileRunner } from "./tiles.js";
import { locate, RowTableView } from "./window.js";

/** Rounds of looking at a counter before sleeping on it: a carry is usually a few microseconds away. */
const SPINS = 2000;

/** How long to sleep before looking at the stop flag again, in ms. */
const NAP = 50;

/** What a thread waits for: until `control[cell]` reaches `value`. */
interface Carry {
  readonly control: Int32Array;
  readonly cell: number;
  readonly value: number;
}

/** Runs this thread's share of a window in shared memory: returns when no tile is left, or the window is stopped. */
export function runShare(...share: Share): void {
  for (const carry of tilesOf(...share)) if (!waitFor(carry)) return;
}

/** {@link runShare} for the calling thread, which must not sleep: where it would wait for long, it hears events meanwhile. */
export async function runOwnShare(...share: Share): Promise<void> {
  for (const carry of tilesOf(...share)) {
    while (!isThere(carry)) {
      if (isStopped(carry.control)) return;
      await macrotask();
    }
  }
}

type Share = [runner: TileRunner, program: PackedProgram, memory: WebAssembly.Memory, window: Window];

/** Takes tiles through the program until there are none. Yields where it can go on only once a carry is there. */
function* tilesOf(...[runner, program, memory, window]: Share): Generator<Carry, void> {
  const control = new Int32Array(memory.buffer, window.control);
  const table = new RowTableView(memory, window.table, window.rows);
  const tile = noTile();
  const tiles = window.rows * window.tilesPerRow;
  for (;;) {
    const claim = Atomics.add(control, Control.next, 1);
    if (claim >= tiles || isStopped(control)) return;
    const row = claim % window.rows;
    const value = Math.floor(claim / window.rows);
    if (!locate(tile, program, window, table, row, value)) continue;
    runner.begin(tile);
    let carry = 0; // carry stages are met in order
    for (let at = runner.local(0); at !== FINISHED; at = runner.local(runner.apply(at))) {
      const cell = Control.committed + Control.spacing * (carry * window.rows + row);
      // What is projected without its carry takes a pass more: no more of it than there is time for.
      for (let more = true; Atomics.load(control, cell) < value; ) {
        if (more) more = runner.project(at);
        else yield { control, cell, value };
      }
      runner.commit(at);
      Atomics.store(control, cell, value + 1);
      Atomics.notify(control, cell);
      carry++;
    }
  }
}

/** Looks for a moment. */
function isThere({ control, cell, value }: Carry): boolean {
  for (let spin = 0; spin < SPINS; spin++) if (Atomics.load(control, cell) >= value) return true;
  return false;
}

function isStopped(control: Int32Array): boolean {
  return Atomics.load(control, Control.stop) !== 0;
}

/** Waits for a carry; false if the window was stopped instead. */
function waitFor(carry: Carry): boolean {
  if (isThere(carry)) return true;
  const { control, cell, value } = carry;
  for (;;) {
    const seen = Atomics.load(control, cell);
    if (seen >= value) return true;
    if (isStopped(control)) return false;
    Atomics.wait(control, cell, seen, NAP);
  }
}
