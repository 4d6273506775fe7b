/**
 * A forward through memory of bounded size: the batch in blocks of rows, each block's time in windows. x is copied in and
 * y copied out window by window (while workers compute the one before), unless they are engine memory already.
 */
import type { ForwardJob } from "../backend.js";
import { isLinrecError } from "../errors.js";
import { throwIfAborted } from "../runtime/signal.js";
import { CHUNK } from "../state.js";
import { Timeline } from "../timeline.js";
import type { PackedProgram } from "./packed.js";
import { controlBytes, isWorkerFault, type Window } from "./protocol.js";
import type { RunnerHost } from "./runner.js";
import { RowTableView, stopWindow } from "./window.js";

/** Bytes of x and y in one window of the calling thread, where they are copied: they stay in its caches meanwhile. */
const WINDOW_BYTES = 1024 * 1024;

/** With workers: milliseconds of their work, for the copies to overlap with, as each window ends with some waiting. */
const WORKERS_WINDOW_BYTES = 8 * 1024 * 1024;

/** The calling thread hears nothing during a window: about 10 ms of its work. Workers look at a flag at every tile. */
export const WINDOW_FLOPS = 4e8;

/** The most rows in a block: plenty for waits between a row's tiles to be rare, whatever the batch. */
export const BLOCK_ROWS = 64;

/** The last tile of each thread is cut into so many, for threads to end at about the same time. */
const TAIL_PARTS = 5;

export interface WindowHost {
  /** An array whose address it does not know needs copying. */
  readonly backend: Pick<RunnerHost, "arena" | "addressOf">;
  readonly program: PackedProgram;
  readonly flopsPerToken: number;
  /** Computes a window. */
  execute(window: Window): Promise<void>;
}

/** Runs `job` in windows of bounded size. `job.state` is advanced only when all is done. */
export async function forwardInWindows(host: WindowHost, job: ForwardJob): Promise<void> {
  const { program } = host;
  const timeline = new Timeline(job);
  if (!program.pooled) timeline.clearPastLengths(job.y, job.lengths, program.outputWidth);
  const heard = job.threads > 0 ? Number.POSITIVE_INFINITY : WINDOW_FLOPS / host.flopsPerToken;
  // No more than fill a window, where there are any: of many rows even a chunk of each takes longer than it may.
  const rows = Math.max(1, Math.min(BLOCK_ROWS, Math.floor(heard / job.seqLen)));
  let done = 0;
  for (let first = 0; first < job.batch; first += rows) {
    const block = new Block(host, job, timeline, heard, first, Math.min(rows, job.batch - first));
    try {
      await block.run((tokens) => {
        done += tokens;
        job.onProgress?.(done);
      });
    } catch (error) {
      // What is no LinrecError was thrown on this thread, while workers were at work.
      block.free(!isLinrecError(error) || isWorkerFault(error));
      throw error;
    }
    block.free();
  }
}

/** What is in memory for a window: one of two sets of buffers, filled while the other is computed. */
interface Buffers {
  readonly x: number;
  readonly y: number;
  readonly times: number;
  readonly table: number;
  readonly control: number;
}

class Block {
  readonly #host: WindowHost;
  readonly #job: ForwardJob;
  readonly #timeline: Timeline;
  readonly #first: number;
  readonly #rows: number;
  readonly #allocated: number[] = [];
  readonly #x: number | undefined;
  readonly #y: number | undefined;
  readonly #span: number;
  readonly #states: number;
  readonly #buffers: [Buffers, Buffers];

  /** @param heard the most tokens of all rows in a window */
  constructor(
    host: WindowHost,
    job: ForwardJob,
    timeline: Timeline,
    heard: number,
    first: number,
    rows: number,
  ) {
    this.#host = host;
    this.#job = job;
    this.#timeline = timeline;
    this.#first = first;
    this.#rows = rows;
    const { program, backend } = host;
    // Ragged rows that are read from their ends are at different places in a window.
    const lengths = job.lengths.subarray(first, first + rows);
    const inPlace = !job.onto || lengths.every((length) => length === job.seqLen);
    this.#x = inPlace ? backend.addressOf(job.x) : undefined;
    this.#y = inPlace && timeline.every === 1 ? backend.addressOf(job.y) : undefined;
    const xBytes = this.#x === undefined ? 4 * program.inputWidth : 0;
    const yBytes = this.#y === undefined && !program.pooled ? 4 * program.outputWidth : 0;
    const timeBytes = job.timesteps ? 4 : 0;
    const most = job.threads > 0 ? WORKERS_WINDOW_BYTES : WINDOW_BYTES;
    const fitting = most / ((xBytes + yBytes + timeBytes) * rows || 1);
    const chunks = Math.max(1, Math.floor(Math.min(fitting, heard / rows) / CHUNK));
    this.#span = Math.max(1, Math.min(job.seqLen, chunks * CHUNK));
    const yRow = program.pooled ? 4 * program.outputWidth : yBytes * this.#span;
    let resets = 0;
    for (let row = first; row < first + rows; row++) {
      resets += Math.min(this.#span, timeline.resets(row).length);
    }
    const buffers = (): Buffers => ({
      x: this.#allocate(rows * xBytes * this.#span),
      y: this.#allocate(rows * yRow),
      times: this.#allocate(rows * timeBytes * this.#span),
      table: this.#allocate(RowTableView.bytes(rows, resets)),
      control: this.#allocate(controlBytes(program.layout.carries, rows)),
    });
    try {
      this.#states = this.#allocate(rows * program.layout.rowBytes);
      const first = buffers();
      this.#buffers = [first, this.#span < job.seqLen ? buffers() : first];
    } catch (error) {
      this.free(); // what there was memory for
      throw error;
    }
  }

  /** @param later a worker that was ended may write on for a moment */
  free(later = false): void {
    const { arena } = this.#host.backend;
    if (later) arena.freeLater(this.#allocated);
    else for (const address of this.#allocated) arena.free(address);
  }

  async run(onTokens: (tokens: number) => void): Promise<void> {
    const { layout } = this.#host.program;
    const { state, lengths, signal, seqLen } = this.#job;
    const rowBytes = layout.rowBytes;
    const stateBytes = state.bytes.subarray(this.#first * rowBytes, (this.#first + this.#rows) * rowBytes);
    this.#memory().set(stateBytes, this.#states);
    interface Running {
      readonly done: Promise<void>;
      readonly start: number;
      readonly end: number;
      readonly buffers: Buffers;
    }
    let running: Running | undefined;
    const finish = ({ start, end, buffers }: Running) => {
      this.#copyOut(start, end, buffers);
      onTokens((end - start) * this.#rows);
    };
    try {
      for (let start = 0, i = 0; start < seqLen; start += this.#span, i++) {
        const end = Math.min(start + this.#span, seqLen);
        const buffers = this.#buffers[i % 2] as Buffers;
        const window = this.#copyIn(start, end, buffers);
        const before = running;
        await before?.done;
        throwIfAborted(signal);
        // Workers go on at once; on the calling thread progress and aborts are heard first.
        if (before && this.#job.threads === 0) finish(before);
        throwIfAborted(signal);
        running = { done: this.#execute(window), start, end, buffers };
        if (before && this.#job.threads > 0) finish(before);
      }
      await running?.done;
      throwIfAborted(signal);
      if (running) finish(running);
    } finally {
      await running?.done.catch(() => {}); // memory is freed next: nobody may still be writing it
    }
    stateBytes.set(this.#memory().subarray(this.#states, this.#states + stateBytes.length));
    for (let row = this.#first; row < this.#first + this.#rows; row++) {
      this.#timeline.advance(state, row, lengths[row] as number);
    }
  }

  /** Runs the window, and lets an abort be heard by whoever computes it. */
  async #execute(window: Window): Promise<void> {
    const { signal } = this.#job;
    const stop = () => stopWindow(this.#host.backend.arena.memory, window);
    signal?.addEventListener("abort", stop);
    try {
      await this.#host.execute(window);
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  #allocate(bytes: number): number {
    if (bytes === 0) return 0;
    const address = this.#host.backend.arena.allocate(bytes);
    this.#allocated.push(address);
    return address;
  }

  #memory(): Uint8Array {
    return new Uint8Array(this.#host.backend.arena.memory.buffer);
  }

  /** Tokens [start, end) of the block's rows: copies x, writes the row table, clears the control block. */
  #copyIn(start: number, end: number, buffers: Buffers): Window {
    const { program } = this.#host;
    const { memory } = this.#host.backend.arena;
    const { x, y, onto, seqLen, lengths, timesteps } = this.#job;
    const timeline = this.#timeline;
    const { inputWidth, outputWidth, pooled } = program;
    const floats = new Float32Array(memory.buffer);
    const table = new RowTableView(memory, buffers.table, this.#rows);
    let longest = 0;
    for (let r = 0; r < this.#rows; r++) {
      const row = this.#first + r;
      const tokens = Math.max(0, Math.min(lengths[row] as number, end) - start);
      const k0 = timeline.k(row, start);
      const last = (lengths[row] as number) <= end;
      table.write(r, {
        ...timeline.part(row, start, tokens),
        tokens,
        k0,
        last,
        count: timeline.count(row, lengths[row] as number),
      });
      longest = Math.max(longest, tokens + k0);
      const from = row * seqLen + this.#firstOf(row, start, end);
      const cut = (values: Float32Array, width: number) =>
        values.subarray(from * width, (from + tokens) * width);
      const to = r * (end - start);
      if (this.#x === undefined) floats.set(cut(x, inputWidth), buffers.x / 4 + to * inputWidth);
      if (onto && this.#y === undefined) floats.set(cut(onto, outputWidth), buffers.y / 4 + to * outputWidth);
      else if (onto && onto !== y) y.set(cut(onto, outputWidth), from * outputWidth);
      if (timesteps) {
        const at = row * seqLen + start;
        floats.set(timesteps.subarray(at, at + tokens), buffers.times / 4 + to);
      }
    }
    const control = new Uint8Array(memory.buffer, buffers.control);
    control.fill(0, 0, controlBytes(program.layout.carries, this.#rows));
    const token = 4 * inputWidth;
    const yToken = 4 * outputWidth;
    const first = onto ? seqLen - end : start;
    return {
      rows: this.#rows,
      ...this.#tiles(longest),
      every: timeline.every,
      x: this.#x === undefined ? buffers.x : this.#x + (this.#first * seqLen + first) * token,
      xRowBytes: token * (this.#x === undefined ? end - start : seqLen),
      y:
        this.#y === undefined
          ? buffers.y
          : this.#y + (pooled ? this.#first : this.#first * seqLen + first) * yToken,
      yRowBytes: pooled ? yToken : yToken * (this.#y === undefined ? end - start : seqLen),
      reversed: Number(onto !== undefined),
      adds: Number(onto !== undefined),
      times: buffers.times,
      timesRowBytes: 4 * (end - start),
      states: this.#states,
      table: buffers.table,
      control: buffers.control,
    };
  }

  /** How rows of up to `tokens`, those of the first one's chunk included, are cut into tiles. */
  #tiles(tokens: number): Pick<Window, "tileTokens" | "tail" | "tailTokens" | "tilesPerRow"> {
    const { threads } = this.#job;
    const { tileTokens } = this.#host.program;
    const tailTokens = Math.ceil(tileTokens / (threads === 0 ? 1 : TAIL_PARTS) / CHUNK) * CHUNK;
    const rest = (threads * tileTokens) / this.#rows;
    const tail = Math.max(0, Math.floor((tokens - rest) / tileTokens));
    const tilesPerRow = tail + Math.ceil((tokens - tail * tileTokens) / tailTokens);
    return { tileTokens, tail, tailTokens, tilesPerRow };
  }

  /** The first token, in the order of x, of those of a row that are read from `start` to `end`. */
  #firstOf(row: number, start: number, end: number): number {
    const length = this.#job.lengths[row] as number;
    return this.#job.onto ? Math.max(0, length - end) : start;
  }

  #copyOut(start: number, end: number, buffers: Buffers): void {
    if (this.#y !== undefined) return;
    const { program } = this.#host;
    const { memory } = this.#host.backend.arena;
    const { outputWidth, pooled } = program;
    const { y, onto, batch, lengths } = this.#job;
    const floats = new Float32Array(memory.buffer);
    for (let r = 0; r < this.#rows; r++) {
      const row = this.#first + r;
      const length = lengths[row] as number;
      const from = buffers.y / 4 + r * outputWidth * (pooled ? 1 : end - start);
      const to = (row * y.length) / batch;
      if (pooled) {
        // The row's only output, there once its last token has been read.
        if (length > start && length <= end) y.set(floats.subarray(from, from + outputWidth), to);
      } else if (length > start) {
        const given = this.#timeline.outputs(row, start);
        const count = this.#timeline.outputs(row, Math.min(length, end)) - given;
        const before = onto ? this.#firstOf(row, start, end) : given;
        y.set(floats.subarray(from, from + count * outputWidth), to + before * outputWidth);
      }
    }
  }
}
