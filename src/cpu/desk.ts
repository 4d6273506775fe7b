/**
 * A worker's desk, in shared memory: its next job is put there. A worker that has just finished one looks at its desk for a
 * moment before it goes back to its messages: waking a thread takes longer than a short job.
 */
import { now } from "../runtime/clock.js";
import type { SharedJob, Window } from "./protocol.js";

/** For how long a worker looks for another job, in ms: a caller that forwards again and again comes back in less. */
const LINGER_MS = 0.2;

/** Looks between two readings of the clock: about a microsecond. */
const LOOKS = 200;

/** The most of these, a few milliseconds in all: a clock may stand still, as a test's does. */
const READINGS = 2000;

/** Where the worker is, in cell 0: at its messages, looking at the desk, there is a job for it, or it is at work on it. */
const State = { away: 0, looking: 1, job: 2, working: 3 } as const;

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
  adds: 0,
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
  /** For the caller: where the worker was when the last job was put. */
  #before: number = State.away;

  constructor(buffer = new SharedArrayBuffer(128 + 8 * (3 + fields.length))) {
    this.buffer = buffer;
    this.#state = new Int32Array(buffer, 0, 1);
    this.#job = new Float64Array(buffer, 128);
  }

  /** How many jobs have been put. */
  get number(): number {
    return this.#job[0] as number;
  }

  /** For the caller, while the worker has no job: true if the worker takes it by itself, false if it needs a message. */
  put({ program, scratch, window }: SharedJob): boolean {
    this.#job.set([this.number + 1, program, scratch]);
    for (const [i, field] of fields.entries()) this.#job[3 + i] = window[field];
    this.#before = Atomics.exchange(this.#state, 0, State.job);
    return this.#before === State.looking;
  }

  /** For the caller: takes the job back, if the worker has not begun with it. */
  takeBack(): boolean {
    return Atomics.compareExchange(this.#state, 0, State.job, this.#before) === State.job;
  }

  /** For the caller: looks for a moment whether the worker is through with the job. */
  isDone(): boolean {
    return this.#lookFor(() => Atomics.load(this.#state, 0) < State.job);
  }

  /** For the worker: whether there is a job, which it now begins with. */
  take(): boolean {
    return Atomics.compareExchange(this.#state, 0, State.job, State.working) === State.job;
  }

  /** For the worker: the job that has been put. */
  read(): SharedJob {
    const [, program, scratch, ...values] = this.#job as unknown as [number, number, number, ...number[]];
    const window = Object.fromEntries(fields.map((field, i) => [field, values[i]]));
    return { program, scratch, window: window as unknown as Window };
  }

  /** For the worker, before it says that it is done: from now on it looks at the desk. */
  look(): void {
    Atomics.store(this.#state, 0, State.looking);
  }

  /** For the worker: whether there has come another job, which it begins with. If not, it is away. */
  waitBriefly(): boolean {
    if (this.#lookFor(() => Atomics.load(this.#state, 0) === State.job && this.take())) return true;
    // It may be taken back at any moment: only one of the two is true.
    while (Atomics.compareExchange(this.#state, 0, State.looking, State.away) !== State.looking)
      if (this.take()) return true;
    return false;
  }

  #lookFor(seen: () => boolean): boolean {
    const end = now() + LINGER_MS;
    for (let readings = 0; readings < READINGS; readings++) {
      for (let i = 0; i < LOOKS; i++) if (seen()) return true;
      if (now() >= end) break;
    }
    return false;
  }
}
