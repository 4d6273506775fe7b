/**
 * The float64 oracle: one token after the other, one output after the other, every intermediate in float64. It shares
 * no code with the kernels and derives lambda by itself, so that agreement with it means something. Tests and
 * `engine.selfTest()` measure every backend against {@link runReference}.
 *
 * Only two things are float32: the parameters and x, which come so, and y of {@link ReferenceBackend}, rounded once.
 */
import type { Backend, ForwardJob, Runner } from "./backend.js";
import { LinrecError } from "./errors.js";
import {
  flopsPerToken,
  inputWidth,
  type Network,
  outputWidth,
  type Program,
  vocabularyOf,
} from "./program.js";
import { type Cell, makeCell, type PoolCell, poolCell, slotOf } from "./referenceCells.js";
import { breathing } from "./runtime/macrotask.js";
import { Queue } from "./runtime/queue.js";
import { throwIfAborted } from "./runtime/signal.js";
import { State, stateLayout } from "./state.js";

/** Work between two looks at the clock, the abort signal and `disposed`: 1-2 ms of it. */
const BLOCK_FLOPS = 2e6;

export interface ReferenceInput extends Pick<ForwardJob, "resets" | "every"> {
  /** [batch, seqLen, inputWidth]; token ids as an Int32Array, or as its bits in a Float32Array */
  readonly x: ArrayLike<number>;
  readonly batch: number;
  readonly seqLen: number;
  /** [batch] tokens to read of each row, 0 <= length <= seqLen; all of them if left out */
  readonly lengths?: ArrayLike<number>;
  /** [batch, seqLen] for each token Delta, by which lambda becomes lambda^Delta; all 1 if left out */
  readonly timesteps?: ArrayLike<number> | undefined;
  /** The initial state, read and left as it is; zeros if left out. */
  readonly state?: State;
}

export interface ReferenceResult {
  /** [batch, outputs, outputWidth], or [batch, outputWidth] for a program that pools; never rounded to float32 */
  readonly y: Float64Array;
  /** The final state. */
  readonly state: State;
}

/**
 * Runs a program in float64, synchronously. Arguments are not checked beyond the length of x; a network whose rate changes
 * is no program.
 * Past a row's length y is 0; a row of length 0 keeps its state, and its row of a pooled y is 0.
 */
export function runReference(given: Network, input: ReferenceInput): ReferenceResult {
  const program = given as Program;
  const { x, batch, seqLen } = input;
  const expected = batch * seqLen * inputWidth(program);
  if (x.length !== expected) {
    throw new LinrecError(
      "shape-mismatch",
      `x has ${x.length} values; [batch, seqLen, width] needs ${expected}.`,
    );
  }
  const lengths = input.lengths ?? new Int32Array(batch).fill(seqLen);
  const state = input.state?.clone() ?? new State(stateLayout(program), batch);
  const oracle = new Oracle(program);
  const { timesteps, resets, every = 1 } = input;
  let outputs = oracle.pooled ? 1 : 0;
  if (!oracle.pooled) {
    for (const count of state.count)
      outputs = Math.max(outputs, Math.floor(((count % every) + seqLen) / every));
  }
  const y = new Float64Array(batch * outputs * outputWidth(program));
  for (const _done of oracle.run({ x, y, batch, seqLen, lengths, timesteps, state, resets, every }));
  return { y, state };
}

/** The oracle as a backend: for debugging, and where nothing else runs. Any state goes in and out in float64. */
export class ReferenceBackend implements Backend {
  readonly name = "reference";
  #disposed = false;

  prepare(program: Program): Runner {
    return new ReferenceRunner(new Oracle(program), () => this.#disposed);
  }

  dispose(): void {
    this.#disposed = true;
  }
}

class ReferenceRunner implements Runner {
  readonly #oracle: Oracle;
  readonly #backendDisposed: () => boolean;
  #disposed = false;
  /** It runs one job at a time. */
  readonly #queue = new Queue();

  constructor(oracle: Oracle, backendDisposed: () => boolean) {
    this.#oracle = oracle;
    this.#backendDisposed = backendDisposed;
  }

  forward(job: ForwardJob): Promise<void> {
    return this.#queue.run(() => this.#drive(job));
  }

  async #drive(job: ForwardJob): Promise<void> {
    this.#check(job);
    const breathe = breathing();
    for (const done of this.#oracle.run(job)) {
      const turn = breathe();
      if (!turn) continue;
      job.onProgress?.(done);
      await turn;
      this.#check(job);
    }
    job.onProgress?.(job.batch * job.seqLen);
  }

  #check(job: ForwardJob): void {
    if (this.#disposed || this.#backendDisposed()) {
      throw new LinrecError(
        "disposed",
        "The engine or model was disposed of before this forward had finished.",
      );
    }
    throwIfAborted(job.signal);
  }

  dispose(): void {
    this.#disposed = true;
  }
}

/** What a run needs: a ForwardJob, or the same with y in float64. */
interface Sweep extends Pick<ForwardJob, "resets" | "every"> {
  readonly x: ArrayLike<number>;
  readonly y: Float32Array | Float64Array;
  readonly batch: number;
  readonly seqLen: number;
  readonly lengths: ArrayLike<number>;
  readonly timesteps?: ArrayLike<number> | undefined;
  readonly state: State;
}

/** A program with its own float64 copy of everything, holding one token at a time. */
class Oracle {
  /** y has one row for each sequence. */
  readonly pooled: boolean;
  readonly #readsIds: boolean;
  readonly #tokensPerBlock: number;
  readonly #x: Float64Array;
  readonly #out: Float64Array;
  /** For each token, up to the last one that carries something. */
  readonly #tokenCells: Cell[] = [];
  /** For each output: after a pool, one for a row. */
  readonly #outputCells: Cell[] = [];
  readonly #pool: PoolCell | undefined;

  constructor(program: Program) {
    const values = program.slots.map((width) => new Float64Array(width));
    const { slots } = stateLayout(program);
    const last = program.stages.reduce((at, { kind }, i) => (kind === "lru" || kind === "pool" ? i : at), -1);
    for (const [i, stage] of program.stages.entries()) {
      const slot = slots.find((candidate) => candidate.stage === stage);
      if (stage.kind === "pool") {
        this.#pool = poolCell(stage, slotOf(values, stage.src), slotOf(values, stage.dst), slot);
        continue;
      }
      (i > last ? this.#outputCells : this.#tokenCells).push(makeCell(stage, values, slot));
    }
    this.pooled = this.#pool !== undefined;
    this.#readsIds = vocabularyOf(program) !== undefined;
    this.#tokensPerBlock = Math.max(1, Math.floor(BLOCK_FLOPS / Math.max(1, flopsPerToken(program))));
    this.#x = slotOf(values, 0);
    this.#out = slotOf(values, program.output);
  }

  /** Does the job, yielding between blocks the tokens done so far, of batch x seqLen. */
  *run(sweep: Sweep): Generator<number, void, void> {
    const { x: given, y, batch, seqLen, lengths, timesteps, state, resets, every = 1 } = sweep;
    const x =
      this.#readsIds && ArrayBuffer.isView(given)
        ? new Int32Array(given.buffer, given.byteOffset, given.length)
        : given;
    const xs = this.#x;
    const out = this.#out;
    const outputs = y.length / batch / out.length;
    const pool = this.#pool;
    const carriers = pool ? [...this.#tokenCells, pool] : this.#tokenCells;
    let left = this.#tokensPerBlock;
    y.fill(0);
    for (let row = 0; row < batch; row++) {
      const length = lengths[row] as number;
      if (length === 0) continue;
      for (const cell of carriers) cell.load?.(state, row);
      let count = state.count[row] as number;
      let next = row * outputs;
      let reset = 0;
      for (let t = 0; t < length; t++) {
        const token = row * seqLen + t;
        if (resets?.[row]?.[reset] === t) {
          reset++;
          count = 0;
          state.resetRow(row);
          for (const cell of carriers) cell.load?.(state, row);
        }
        count++;
        for (let j = 0; j < xs.length; j++) xs[j] = x[token * xs.length + j] as number;
        const delta = timesteps?.[token] ?? 1;
        for (const cell of this.#tokenCells) cell.apply(delta);
        if (pool) pool.apply(delta);
        else if (count % every === 0) {
          for (const cell of this.#outputCells) cell.apply(delta);
          y.set(out, next++ * out.length);
        }
        if (--left === 0) {
          left = this.#tokensPerBlock;
          yield token + 1;
        }
      }
      for (const cell of carriers) cell.save?.(state, row);
      state.restartRow(row, count);
      if (pool) {
        pool.emit(count);
        for (const cell of this.#outputCells) cell.apply(1);
        y.set(out, row * out.length);
      }
    }
  }
}
