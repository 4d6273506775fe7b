/** A program's forwards on workers: loaded with them. */
import type { ForwardJob } from "../backend.js";
import { isLinrecError, LinrecError, messageOf } from "../errors.js";
import type { PackedProgram } from "./packed.js";
import type { PooledWorker } from "./pool.js";
import { DEADLINE_MS, LANES, type Window } from "./protocol.js";
import type { RunnerHost } from "./runner.js";
import { runOwnShare } from "./share.js";
import { withSpans } from "./spans.js";
import type { TileRunner } from "./tiles.js";
import { forwardByTransfer } from "./transfer.js";
import { stopWindow } from "./window.js";
import { forwardInWindows } from "./windows.js";

/** What a runner gives to its part on workers. */
export interface OnWorkersHost {
  readonly backend: RunnerHost;
  readonly packed: PackedProgram;
  readonly flopsPerToken: number;
  /** Address of the program's image. */
  readonly image: number;
  /** For the calling thread. */
  readonly runner: TileRunner;
  newRunner(scratch: number): TileRunner;
}

/** 0.1 GFLOP/s: a worker that is slower, DEADLINE_MS aside, is taken to hang. */
const SLOWEST_FLOPS_PER_MS = 1e5;

/** A thread's share of a short forward: a few ms, less than a page's frame. */
const SHORT_FLOPS = 1.5e8;

let programs = 0;

export class OnWorkers {
  readonly #host: OnWorkersHost;
  /** What workers with memories of their own run. */
  readonly #spans: PackedProgram;
  readonly #id = programs++;
  /** The workers that have the program. */
  readonly #loaded = new Set<PooledWorker>();
  #scratch: number[] = [];

  constructor(host: OnWorkersHost) {
    this.#host = host;
    this.#spans = withSpans(host.packed);
  }

  async forward(job: ForwardJob, workers: PooledWorker[]): Promise<void> {
    try {
      await Promise.all(workers.map((worker) => this.#load(worker)));
      if (this.#host.backend.shared) await this.#inSharedMemory(job, workers);
      else await this.#byTransfer(job, workers);
    } catch (error) {
      if (isLinrecError(error)) throw error;
      // Whatever else comes out of a call was thrown inside a worker.
      throw new LinrecError("worker-failed", `A worker thread threw: ${messageOf(error)}.`, { cause: error });
    }
  }

  /** Leaves the memory in which workers that are being ended may still be writing. */
  abandon(): void {
    this.#host.backend.arena.freeLater(this.#scratch);
    this.#scratch = [];
  }

  dispose(): void {
    for (const address of this.#scratch) this.#host.backend.arena.free(address);
    this.#scratch = [];
    // A worker that has died or dies meanwhile has nothing to unload.
    for (const worker of this.#loaded)
      worker.call((api) => api.unload(this.#id), DEADLINE_MS).catch(() => {});
    this.#loaded.clear();
  }

  /** For a call that works on so many tokens. */
  #deadline(tokens: number): number {
    return DEADLINE_MS + (tokens * this.#host.flopsPerToken) / SLOWEST_FLOPS_PER_MS;
  }

  #inSharedMemory(job: ForwardJob, workers: PooledWorker[]): Promise<void> {
    const { backend, packed, flopsPerToken } = this.#host;
    const { arena } = backend;
    while (this.#scratch.length < workers.length) this.#scratch.push(arena.allocate(packed.scratch.bytes));
    const scratch = (i: number) => this.#scratch[i] as number;
    // Waking a thread that sleeps may take longer than a short job: the calling thread begins at once, in the place of one.
    const flops = job.batch * job.seqLen * flopsPerToken;
    const short = workers.length > 1 && flops < workers.length * SHORT_FLOPS;
    const called = short ? workers.slice(1) : workers;
    const own = short ? this.#host.newRunner(scratch(called.length)) : undefined;
    const execute = async (window: Window) => {
      const deadline = this.#deadline(window.rows * window.tilesPerRow * window.tileTokens);
      const shares = called.map((worker, i) =>
        worker.run({ program: this.#id, window, scratch: scratch(i) }, deadline),
      );
      const share = own && runOwnShare(own, packed, arena.memory, window);
      const through = share?.then(() => called.map((worker) => worker.settle()));
      try {
        await Promise.all([through, ...shares]);
      } catch (error) {
        // The others must have let go of the memory before it is used again: ended threads have.
        for (const worker of workers) worker.terminate();
        stopWindow(arena.memory, window);
        await share;
        throw error;
      }
    };
    return forwardInWindows({ backend, program: packed, flopsPerToken, execute }, job);
  }

  #byTransfer(job: ForwardJob, workers: PooledWorker[]): Promise<void> {
    const { backend, image, runner } = this.#host;
    const { kernels, arena } = backend;
    const program = { program: this.#spans, programId: this.#id, kernels, arena, image, runner };
    const deadline = this.#deadline(LANES * this.#spans.tileTokens); // a call may wait for those of other lanes
    return forwardByTransfer({ ...program, workers, deadline }, job);
  }

  async #load(worker: PooledWorker): Promise<void> {
    if (this.#loaded.has(worker)) return;
    const { backend, packed, image } = this.#host;
    const { shared, wide } = backend;
    await worker.call(
      (api) =>
        api.load({
          id: this.#id,
          packed: shared ? { ...packed, image: new Uint8Array() } : this.#spans,
          image: shared ? image : null,
          tileTokens: packed.tileTokens,
          wide: wide?.module,
        }),
      DEADLINE_MS,
    );
    this.#loaded.add(worker);
  }
}
