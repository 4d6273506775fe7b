/**
 * A window of a forward in memory, tile by tile. Tiles are taken in order, so whoever waits for a carry waits for a tile
 * that some thread has taken and is running: there is no deadlock, and no barrier.
 */
import type { PackedProgram } from "../src/cpu/packed.js";
import { type Window } from "../src/cpu/protocol.js";
import { type TileRunner } from "./tiles.js";
/** Runs a whole window on this thread, row after row. */
export declare function runWindow(runner: TileRunner, program: PackedProgram, memory: WebAssembly.Memory, window: Window): void;
/** Runs this thread's share of a window in shared memory: returns when no tile is left, or the window is stopped. */
export declare function runShare(runner: TileRunner, program: PackedProgram, memory: WebAssembly.Memory, window: Window): void;
