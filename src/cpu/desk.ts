/**
 * A worker's desk, in shared memory: its next job is put there. A worker that has just finished one looks at its desk for a
 * moment before it goes back to its messages: waking a thread takes longer than a short job.
 */
import type { SharedJob, Window } from "./protocol.js";

/** For how long a worker looks for another job, in ms: a caller that forwards again and again comes back in less. */
const LINGER_MS = 0.2;

/** Looks between two readings of the clock: about a microsecond. */
const LOOKS = 200;

/** Where the worker is, in cell 0: at its messages, looking at the desk, or there is a job for it. */
const State = { away: 0, looking: 1, job: 2 } as const;

/** The fields of a window in the order in which they lie on the desk: all of them are numbers. */
const fields = Object.keys({
  rows: 0,
  tileTokens: 0,
  tail: 0,
  tailTokens: 0,
  every: 0,
  tilesPerRow: 0,
  x: 0,
  xRowBytes: 0,
  y: 0,
  yRowBytes: 0,
  reversed: 0,
  onto: 0,
  states: 0,
  table: 0,
  control: 0,
  times: 0,
  timesRowBytes: 0,
} satisfies Record<keyof Window, 0>) as (keyof Window)[];

export class Desk {
  readonly buffer: SharedArrayBuffer;
  readonly #state: Int32Array;
  /** On another line of cache than the state, which is looked at all the time. */
  readonly #job: Float64Array;

  constructor(buffer = new SharedArrayBuffer(128 + 8 * (2 + fields.length))) {
    this.buffer = buffer;
    this.#state = new Int32Array(buffer, 0, 1);
    this.#job = new Float64Array(buffer, 128);
  }

  /** For the caller, while the worker has no job: true if the worker takes it by itself, false if it needs a message. */
  put({ program, scratch, window }: SharedJob): boolean {
    this.#job[0] = program;
    this.#job[1] = scratch;
    for (const [i, field] of fields.entries()) this.#job[2 + i] = window[field];
    return Atomics.exchange(this.#state, 0, State.job) === State.looking;
  }

  /** For the worker: the job that has been put. */
  read(): SharedJob {
    const [program, scratch, ...values] = this.#job as unknown as [number, number, ...number[]];
    const window = Object.fromEntries(fields.map((field, i) => [field, values[i]]));
    return { program, scratch, window: window as unknown as Window };
  }

  /** For the worker, before it says that it is done: from now on it looks at the desk. */
  look(): void {
    Atomics.store(this.#state, 0, State.looking);
  }

  /** For the worker: whether there has come another job. If not, it is away. */
  waitBriefly(): boolean {
    const end = performance.now() + LINGER_MS;
    do {
      for (let i = 0; i < LOOKS; i++) if (Atomics.load(this.#state, 0) === State.job) return true;
    } while (performance.now() < end);
    return Atomics.compareExchange(this.#state, 0, State.looking, State.away) === State.job;
  }
}
