/** Where the rows of a forward stand in time: a row's state may start anew on the way, and not every token may give an output. */
import type { ForwardJob } from "./backend.js";
import { CHUNK, type State } from "./state.js";

const none = new Int32Array(0);

export class Timeline {
  readonly every: number;
  /** The tokens have timesteps, and know no chunks. */
  readonly #timed: boolean;
  readonly #k: Int32Array;
  readonly #count: Float64Array;
  readonly #resets: readonly Int32Array[] | undefined;
  /** Outputs that each row has given before each of its resets. */
  readonly #given: readonly Int32Array[] | undefined;

  /** Keeps nothing of the state: it may be advanced meanwhile. */
  constructor({
    state,
    timesteps,
    resets,
    every = 1,
  }: Pick<ForwardJob, "state" | "timesteps" | "resets" | "every">) {
    this.#timed = timesteps !== undefined;
    this.every = every;
    this.#k = state.k.slice();
    this.#count = state.count.slice();
    this.#resets = resets;
    this.#given = resets?.map((positions, row) => {
      const given = new Int32Array(positions.length);
      let origin = -((this.#count[row] as number) % every);
      let sum = 0;
      positions.forEach((position, i) => {
        sum += Math.floor((position - origin) / every);
        given[i] = sum;
        origin = position;
      });
      return given;
    });
  }

  resets(row: number): Int32Array {
    return this.#resets?.[row] ?? none;
  }

  /** Tokens since the origin of the row's state, at its token `t`. */
  count(row: number, t: number): number {
    const reset = this.#lastReset(row, t);
    return reset < 0 ? (this.#count[row] as number) + t : t - (this.resets(row)[reset] as number);
  }

  /** Tokens of the unfinished chunk, before the row's token `t`. */
  k(row: number, t: number): number {
    if (this.#timed && t > 0) return 0; // a row that has no token keeps its state
    const reset = this.#lastReset(row, t);
    return (reset < 0 ? (this.#k[row] as number) + t : t - (this.resets(row)[reset] as number)) % CHUNK;
  }

  /** How many outputs the row's first `t` tokens give. */
  outputs(row: number, t: number): number {
    const { every } = this;
    const reset = this.#lastReset(row, t);
    if (reset < 0) return outputsOf(this.#count[row] as number, t, every);
    return (
      (this.#given?.[row]?.[reset] as number) + Math.floor((t - (this.resets(row)[reset] as number)) / every)
    );
  }

  /** Zeroes the outputs, of `width`, that no token gives: those past each row's last. */
  clearPastLengths(y: Float32Array, lengths: Int32Array, width: number): void {
    const size = y.length / lengths.length;
    for (const [row, length] of lengths.entries())
      y.fill(0, row * size + this.outputs(row, length) * width, (row + 1) * size);
  }

  /** Where `tokens` tokens of a row from `start` on stand: as of a window's row, or a span. */
  part(row: number, start: number, tokens: number): { phase: number; resets: Int32Array; given: Int32Array } {
    const phase = this.count(row, start) % this.every;
    if (!this.#resets) return { phase, resets: none, given: none };
    const all = this.resets(row);
    const within = all.subarray(lastAt(all, start - 1) + 1, lastAt(all, start + tokens - 1) + 1);
    const before = this.outputs(row, start);
    return {
      phase,
      resets: within.map((t) => t - start),
      given: within.map((t) => this.outputs(row, t) - before),
    };
  }

  /** Advances k and count of a row of the state past its first `t` tokens; carries and locs have been. */
  advance(state: State, row: number, t: number): void {
    state.k[row] = this.k(row, t);
    state.count[row] = this.count(row, t);
  }

  #lastReset(row: number, t: number): number {
    return this.#resets ? lastAt(this.resets(row), t) : -1;
  }
}

/** How many of `tokens` more tokens, after `count` since the state's origin, give an output. */
export function outputsOf(count: number, tokens: number, every: number): number {
  return Math.floor(((count % every) + tokens) / every);
}

/** The index of the last of ascending `positions` that is at most `t`, or -1. */
export function lastAt(positions: ArrayLike<number>, t: number): number {
  let [from, to] = [0, positions.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if ((positions[middle] as number) <= t) from = middle + 1;
    else to = middle;
  }
  return from - 1;
}
