/** What the calling thread and its workers say to each other, and how what they share is laid out. */
import { isLinrecError } from "../errors.js";
import type { PackedProgram } from "./packed.js";

/** A worker that does not answer a short call within this is taken to hang. */
export const DEADLINE_MS = 10_000;

/** What a job costs in shared memory, to a worker that is awake and looks at its desk, and back: 20 to 60 us were measured. */
export const DESK_HOP_MS = 0.04;

/** Of messages, until it is measured, or where no clock can: two workers on the machine that this was written on. */
export const TYPICAL_HOP_MS = 0.2;

/** True for what comes of a worker that died, threw or hung: its memory may still be written for a moment. */
export function isWorkerFault(error: unknown): boolean {
  return isLinrecError(error) && (error.code === "worker-failed" || error.code === "timeout");
}

/** Sets a worker up. With `memory` it shares the caller's, without it makes a private one. */
export interface WorkerInit {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory | null;
  /** Where memory is shared, what its jobs come in: see desk.ts. */
  readonly desk: SharedArrayBuffer | undefined;
}

/** A program for a worker. `image` is its address in shared memory, or null: the worker copies `packed.image` into its own. */
export interface WorkerProgram {
  readonly id: number;
  readonly packed: PackedProgram;
  readonly image: number | null;
  /** Of the tiles that a span is cut into where its state is known. */
  readonly tileTokens: number;
  /** Kernels that it may need, beside those of {@link WorkerInit}. */
  readonly wide: WebAssembly.Module | undefined;
}

/**
 * A window of a forward, in memory: some rows of the batch, some of their tokens. Every thread that runs it takes the
 * next tile from the counter in `control` until there is none.
 */
export interface Window {
  readonly rows: number;
  /** A multiple of CHUNK, at most the program's tileTokens. */
  readonly tileTokens: number;
  /** From tile `tail` on a row's tiles have `tailTokens`, a multiple of CHUNK as well: small ones, for threads to end together. */
  readonly tail: number;
  readonly tailTokens: number;
  /** Only tokens every, 2 every, ... since the state's origin give an output. */
  readonly every: number;
  /** The most tiles that a row has. Tile number c is tile floor(c / rows) of row c mod rows: in order for every row. */
  readonly tilesPerRow: number;
  readonly x: number;
  readonly xRowBytes: number;
  readonly y: number;
  readonly yRowBytes: number;
  /** 1 where rows are read from their last token back, else 0. */
  readonly reversed: number;
  /** 1 where outputs are added to what stands in y, else 0. */
  readonly adds: number;
  /** Each token's integration timestep, float32; 0 if there are none. */
  readonly times: number;
  readonly timesRowBytes: number;
  /** State blocks [rows] of layout.rowBytes */
  readonly states: number;
  /** [rows]: see {@link RowTable} */
  readonly table: number;
  /** Int32 cells; see {@link Control} */
  readonly control: number;
}

/**
 * A row of the row table, in `bytes`: int32 tokens in this window, k at its start, 1 if the row ends here, tokens since the
 * state's origin at its start modulo `every`; count float64; then where the row's resets in this window are, in int32s from the
 * table's start, and how many. They are int32: the tokens, ascending; after these the outputs that the row gives before each.
 */
export const RowTable = {
  bytes: 32,
  tokens: 0,
  k0: 1,
  last: 2,
  phase: 3,
  count: 2,
  resets: 6,
  resetCount: 7,
} as const;

/**
 * Cells of a window's control block, in units of int32, each on a line of its own: the next tile to take, the flag that
 * stops everybody, and for each (carry stage, row) how many tiles have committed.
 */
export const Control = { next: 0, stop: 32, committed: 64, spacing: 32 } as const;

export function controlBytes(carries: number, rows: number): number {
  return 4 * (Control.committed + Control.spacing * carries * rows);
}

/** One thread's share of a window in shared memory. */
export interface SharedJob {
  readonly program: number;
  readonly window: Window;
  /** The thread's scratch block. */
  readonly scratch: number;
}

/** Spans that a worker with a private memory may be at: while one waits for its carries, the other is worked on. */
export const LANES = 2;

/** A run of tokens of one row for a worker with a private memory. */
export interface Span {
  readonly program: number;
  /** < LANES: a lane's span before is over. */
  readonly lane: number;
  /** [tokens, inputWidth], in a buffer that comes back, for y or the lane's next x: large enough for either. */
  readonly x: Float32Array<ArrayBuffer>;
  /** [tokens], if they have timesteps; `state` is then given. */
  readonly times: Float32Array<ArrayBuffer> | undefined;
  readonly tokens: number;
  /** Its last token is the first to be read; y comes in the order of x. */
  readonly reversed: boolean;
  readonly k0: number;
  readonly last: boolean;
  readonly count: number;
  /** The tokens before which the state is zeroed, ascending, and the outputs before each. */
  readonly resets: Int32Array;
  readonly given: Int32Array;
  /** Tokens since the state's origin before the span, modulo `every`. */
  readonly phase: number;
  readonly every: number;
  /** Rows of y that it gives. */
  readonly outputs: number;
  /** The row's state block, where all spans before have committed theirs: a row's first span has it. */
  readonly state: Uint8Array<ArrayBuffer> | undefined;
}

/** A worker's answer about a lane: of the span that is done, and of the one that waits for carries. */
export interface SpanReply {
  /** The stage that waits, or -1: none does. */
  readonly stage: number;
  /**
   * Where one waits. LRU: loc of the last token of each chunk touched before a reset, [chunks, groups, 8] float32, and if there
   * is a reset the state after the last token, carry and loc. Pool: sums [chunks after the last reset, width] float64.
   */
  readonly finals?: Uint8Array<ArrayBuffer>;
  /** Outputs of the span that is done, in `buffer`. */
  readonly y?: Float32Array<ArrayBuffer>;
  /** The row's state block after it, if it was given. */
  readonly state?: Uint8Array<ArrayBuffer> | undefined;
  /** What came with x, or for y. */
  readonly buffer: ArrayBuffer;
}

export interface WorkerApi {
  init(init: WorkerInit): Promise<void>;
  load(program: WorkerProgram): void;
  unload(id: number): void;
  /**
   * Does the job on the desk, if it is still there (works on a window in shared memory until no tile is left, or the window is
   * stopped), posts its number, and does the next if one is put there at once.
   */
  run(): void;
  begin(span: Span): SpanReply;
  /**
   * Goes on with the carries into each chunk, float32; null drops the span (a pool's, which ends with its sums).
   * @param next the span to begin after it, which has no `state`, if these are its last carries; or what its y may come in
   */
  resume(lane: number, carries: Uint8Array<ArrayBuffer> | null, next: Span | ArrayBuffer): SpanReply;
}
