/** A program on the CPU: its weights in the kernels' memory, and the ways to run it: in one thread, on workers, by steps. */
import type { ForwardJob, PlainJob, Runner } from "../backend.js";
import { messageOf } from "../errors.js";
import { parts } from "../parts.js";
import { flopsPerToken, type Program } from "../program.js";
import { now } from "../runtime/clock.js";
import { breathing } from "../runtime/macrotask.js";
import type { Queue } from "../runtime/queue.js";
import { CHUNK, type State } from "../state.js";
import type { Arena } from "./arena.js";
import type { Kernels } from "./instantiate.js";
import type { OnWorkers } from "./onWorkers.js";
import { type PackedProgram, type PackStage, packProgram } from "./packed.js";
import type { PooledWorker } from "./pool.js";
import { isWorkerFault, type Window } from "./protocol.js";
import type { ModelStages } from "./stages.js";
import { noTile, type Step } from "./tile.js";
import { TileRunner } from "./tiles.js";
import { runWindow } from "./window.js";
import { BLOCK_ROWS, forwardInWindows, WINDOW_FLOPS } from "./windows.js";

/** What models want of the CPU, beside what layers want: see widen.ts. */
export interface Wide {
  readonly pack: PackStage;
  readonly stages: ModelStages;
  /** Kernels that a worker has to be given with a program. */
  readonly module: WebAssembly.Module | undefined;
}

/** What the backend gives to all its programs. */
export interface RunnerHost {
  readonly kernels: Kernels;
  readonly arena: Arena;
  /** Whether workers share the arena's memory. */
  readonly shared: boolean;
  /** How many workers may be used at present. */
  readonly threads: number;
  readonly queue: Queue;
  /** What models want and layers do not. */
  readonly wide: Wide | undefined;
  workers(): Promise<PooledWorker[]>;
  /** Told what a thread has reached at least, in flops per ms. */
  observe(flopsPerMs: number): void;
  /** Ends the pool after a fault. */
  discardWorkers(reason: string): void;
  /** The address of an array that is in the arena's memory. */
  addressOf(array: Float32Array): number | undefined;
}

/** Some clocks tick once in a millisecond. */
const OBSERVED_MS = 5;

/** The most of x that is copied for a forward to be run at once. */
const AT_ONCE_BYTES = 4 * 1024 * 1024;

export class WasmRunner implements Runner {
  readonly packed: PackedProgram;
  readonly #backend: RunnerHost;
  readonly #flopsPerToken: number;
  readonly #image: number;
  readonly #scratch: number;
  readonly #runner: TileRunner;
  /** Loaded with the first workers. */
  #onWorkers: OnWorkers | undefined;
  #area = noStepArea;
  /** Views of the whole memory, made again when it has grown. */
  #floats!: Float32Array;
  #bytes!: Uint8Array;
  #ints!: Int32Array;
  #doubles!: Float64Array;
  /** Whose bytes are in the area since its last step, and nowhere else: its next step need not copy them. */
  #guest: State | undefined;
  readonly #fetch = (bytes: Uint8Array) => {
    this.#guest = undefined;
    bytes.set(new Uint8Array(this.#backend.arena.memory.buffer, this.#area.states, bytes.length));
  };
  /** y of the last step in the area, and what it was told: made once, for a step to allocate nothing. */
  #stepped: Float32Array = new Float32Array();
  readonly #step: Step = { x: 0, y: 0, rows: 0, states: 0, ks: 0, counts: 0, times: 0 };

  constructor(backend: RunnerHost, program: Program) {
    this.#backend = backend;
    this.#flopsPerToken = flopsPerToken(program);
    this.packed = packProgram(program, backend.wide?.pack);
    const { arena } = backend;
    const { image, scratch } = this.packed;
    this.#image = arena.allocate(image.length);
    try {
      this.#scratch = arena.allocate(scratch.bytes);
    } catch (error) {
      arena.free(this.#image);
      throw error;
    }
    this.#view();
    this.#bytes.set(image, this.#image);
    this.#runner = this.#newRunner(this.#scratch);
  }

  async forward(job: ForwardJob): Promise<void> {
    if (job.timesteps)
      for (let row = 0; row < job.batch; row++) if (job.lengths[row]) job.state.settleRow(row);
    return this.#backend.queue.run(async () => {
      const start = now();
      await this.#forward(job);
      this.#observe(job, now() - start);
    });
  }

  /**
   * One token for each row, on the calling thread: x [batch, inputWidth], y [batch, outputWidth]; advances `state` in
   * place. The same kernels on a tile of one token, hence the same bits as forward.
   */
  step(x: Float32Array, y: Float32Array, state: State, timesteps?: Float32Array): void {
    const { inputWidth, outputWidth, layout, tileTokens } = this.packed;
    const { batch, k, count } = state;
    if (state !== this.#guest) this.#guest?.settle();
    const at = this.#reserveStep(batch);
    for (let row = 0; row < batch; row++) {
      count[row] = (count[row] as number) + 1;
      if (timesteps) state.settleRow(row);
    }
    if (timesteps) this.#floats.set(timesteps, at.times / 4);
    this.#floats.set(x, at.x / 4);
    if (state !== this.#guest) {
      this.#bytes.set(state.bytes, at.states);
      state.lend(this.#fetch);
      this.#guest = state;
    }
    this.#ints.set(k, at.ks / 4);
    this.#doubles.set(count, at.counts / 8);
    const step = this.#step;
    for (let first = 0; first < batch; first += tileTokens) {
      step.rows = Math.min(tileTokens, batch - first);
      step.x = at.x + 4 * first * inputWidth;
      step.y = at.y + 4 * first * outputWidth;
      step.states = at.states + first * layout.rowBytes;
      step.ks = at.ks + 4 * first;
      step.counts = at.counts + 8 * first;
      step.times = timesteps ? at.times + 4 * first : 0;
      this.#runner.step(step);
    }
    if (!timesteps) for (let row = 0; row < batch; row++) k[row] = ((k[row] as number) + 1) % CHUNK;
    y.set(this.#stepped);
  }

  /** Runs a forward whose rows are one call of a kernel each, if it is: windows would cost a short one more than it takes. */
  atOnce({ batch, seqLen, lengths, x, y, state, timesteps, resets, every }: PlainJob): boolean {
    const { whole, outputWidth, layout } = this.packed;
    const from = this.#backend.addressOf(x);
    const to = this.#backend.addressOf(y);
    const copied = from === undefined || to === undefined ? x.byteLength : 0;
    const special = timesteps || resets || (every as number) > 1;
    const long = copied > AT_ONCE_BYTES || batch * seqLen * this.#flopsPerToken > WINDOW_FLOPS;
    if (!whole || special || long || batch > BLOCK_ROWS) return false;
    const { arena } = this.#backend;
    this.#guest?.settle();
    const own = copied && arena.allocate(copied);
    try {
      const { states } = this.#reserveStep(batch);
      const [floats, bytes] = [this.#floats, this.#bytes];
      if (own) floats.set(x, own / 4);
      bytes.set(state.bytes, states);
      const tile = { ...noTile(), x: own || (from as number), y: own || (to as number), state: states };
      for (let row = 0; row < batch; row++) {
        tile.tokens = lengths[row] as number;
        tile.k0 = state.k[row] as number;
        this.#runner.run(tile, true);
        const end = tile.y / 4 + seqLen * outputWidth;
        floats.fill(0, end - (seqLen - tile.tokens) * outputWidth, end);
        tile.x += 4 * seqLen * outputWidth;
        tile.y = 4 * end;
        tile.state += layout.rowBytes;
      }
      if (own) y.set(floats.subarray(own / 4, own / 4 + y.length));
      state.bytes.set(bytes.subarray(states, states + state.bytes.length));
    } finally {
      arena.free(own);
    }
    for (let row = 0; row < batch; row++) {
      const tokens = lengths[row] as number;
      state.k[row] = ((state.k[row] as number) + tokens) % CHUNK;
      (state.count[row] as number) += tokens;
    }
    return true;
  }

  dispose(): void {
    const { arena } = this.#backend;
    this.#guest?.settle();
    for (const address of [this.#image, this.#scratch, this.#area.x]) arena.free(address);
    this.#onWorkers?.dispose();
    this.#area = noStepArea;
  }

  #newRunner(scratch: number): TileRunner {
    const { kernels, wide } = this.#backend;
    return new TileRunner(kernels, this.packed, this.#image, scratch, wide?.stages);
  }

  /** Long forwards know better what a thread does than a measurement in the first milliseconds of a page. */
  #observe({ every = 1, lengths, threads }: ForwardJob, ms: number): void {
    if (every > 1 || ms < OBSERVED_MS) return;
    const tokens = lengths.reduce((sum, length) => sum + length, 0);
    this.#backend.observe((tokens * this.#flopsPerToken) / (ms * Math.max(1, threads)));
  }

  async #forward(job: ForwardJob): Promise<void> {
    const threads = Math.min(job.threads, this.#backend.threads);
    const initial = threads > 0 ? job.state.clone() : job.state;
    // Once more on a fresh pool after a fault, then on the calling thread: what fails there too is no worker's fault.
    for (let attempt = 0; attempt < 2 && this.#backend.threads > 0 && threads > 0; attempt++) {
      try {
        return await this.#forwardOnWorkers(job, threads);
      } catch (error) {
        job.intact?.(); // or no worker is to blame
        if (!isWorkerFault(error)) throw error;
        this.#onWorkers?.abandon();
        if (job.signal?.aborted) throw error;
        if (this.#backend.threads > 0)
          this.#backend.discardWorkers(`${messageOf(error)} The forward is run again.`);
        job.state.copyFrom(initial);
      }
    }
    const breathe = breathing();
    const execute = async (window: Window) => {
      runWindow(this.#runner, this.packed, this.#backend.arena.memory, window);
      await breathe();
    };
    const host = {
      backend: this.#backend,
      program: this.packed,
      flopsPerToken: this.#flopsPerToken,
      execute,
    };
    await forwardInWindows(host, { ...job, threads: 0 });
  }

  async #forwardOnWorkers(job: ForwardJob, threads: number): Promise<void> {
    const workers = (await this.#backend.workers()).slice(0, threads);
    const { OnWorkers } = await parts.threads(); // the workers came with it
    this.#onWorkers ??= new OnWorkers({
      backend: this.#backend,
      packed: this.packed,
      flopsPerToken: this.#flopsPerToken,
      image: this.#image,
      runner: this.#runner,
      newRunner: (scratch) => this.#newRunner(scratch),
    });
    await this.#onWorkers.forward(job, workers);
  }

  #view(): void {
    const { buffer } = this.#backend.arena.memory;
    this.#floats = new Float32Array(buffer);
    this.#bytes = new Uint8Array(buffer);
    this.#ints = new Int32Array(buffer);
    this.#doubles = new Float64Array(buffer);
  }

  /** Room for the arrays of a step of `batch` rows, and views of the memory as it is now. */
  #reserveStep(batch: number): StepArea {
    const { arena } = this.#backend;
    const { inputWidth, outputWidth, layout } = this.packed;
    const grows = this.#area.batch < batch;
    if (grows) {
      arena.free(this.#area.x);
      this.#area = noStepArea; // there may be no memory for the next
      let end = 0;
      const offsets = [4 * inputWidth, 4 * outputWidth, layout.rowBytes, 4, 8, 4].map((bytes) => {
        const start = end;
        end += Math.ceil((batch * bytes) / 128) * 128;
        return start;
      });
      const area = arena.allocate(end);
      const [x, y, states, ks, counts, times] = offsets.map((offset) => area + offset) as [
        number,
        number,
        number,
        number,
        number,
        number,
      ];
      this.#area = { batch, x, y, states, ks, counts, times };
    }
    const moved = this.#floats.buffer !== arena.memory.buffer;
    if (moved) this.#view();
    if (grows || moved || this.#stepped.length !== batch * outputWidth) {
      const y = this.#area.y / 4;
      this.#stepped = this.#floats.subarray(y, y + batch * outputWidth);
    }
    return this.#area;
  }
}

/** Where a step's arrays are: see {@link Step}. */
interface StepArea {
  readonly batch: number;
  readonly x: number;
  readonly y: number;
  readonly states: number;
  readonly ks: number;
  readonly counts: number;
  readonly times: number;
}

/** For no batch: nothing else of it is looked at. */
const noStepArea = { batch: -1, x: 0 } as StepArea;
