/**
 * The CPU: WASM-SIMD kernels on the calling thread or on a pool of workers, with shared memory or without. Every way of
 * running gives the same bits.
 */
import type { Backend } from "../backend.js";
import { LinrecError, messageOf } from "../errors.js";
import { initLru } from "../init.js";
import { programOf } from "../lruParams.js";
import { parts } from "../parts.js";
import { flopsPerToken, type Program } from "../program.js";
import { now } from "../runtime/clock.js";
import { Queue } from "../runtime/queue.js";
import { State, stateLayout } from "../state.js";
import { Arena } from "./arena.js";
import { createMemory, instantiate, type Kernels } from "./instantiate.js";
import { type CompiledKernels, compileKernels, type Simd, type WasmSource } from "./kernels.js";
import type { Pool, PooledWorker } from "./pool.js";
import { DESK_HOP_MS, TYPICAL_HOP_MS } from "./protocol.js";
import { type RunnerHost, WasmRunner, type Wide } from "./runner.js";

export interface WasmOptions {
  readonly simd: Simd | "auto";
  /** The most worker threads that a job may ask for. */
  readonly threads: number;
  /** Whether threads may share memory here. */
  readonly sharedMemory: boolean;
  readonly workerUrl: string | URL | undefined;
  readonly wasm: WasmSource | undefined;
  /** Told when threads cannot be had, or a forward had to be run again. */
  readonly onTrouble: (message: string) => void;
}

/** Compiles the kernels and makes the memory. Rejects with `backend-unavailable`, in words to act on. */
export async function openWasm(options: WasmOptions): Promise<WasmBackend> {
  const compiled = await compileKernels(options.simd, options.sharedMemory, options.wasm);
  const memory = createMemory(compiled.shared, 1);
  return new WasmBackend(options, compiled, memory, await instantiate(compiled.module, memory));
}

export class WasmBackend implements Backend, RunnerHost {
  readonly name = "wasm";
  readonly compiled: CompiledKernels;
  readonly kernels: Kernels;
  readonly arena: Arena;
  readonly queue = new Queue();
  wide: Wide | undefined;
  readonly #options: WasmOptions;
  /** Every buffer object that this memory has had: growing a shared memory makes a new one over the same bytes. */
  readonly #buffers = new WeakSet<ArrayBufferLike>();
  /** Arrays that are lent out: where one is given back twice, there may be another, or a layer's weights, by then. */
  readonly #lent = new WeakSet<Float32Array>();
  #workers: Promise<Pool> | undefined;
  /** Why workers were found not to start. */
  noThreads: string | undefined;
  /** What it takes to give the workers a job and hear from them, in ms: of messages measured once they are there. */
  hopMs: number;
  #disposed = false;

  constructor(options: WasmOptions, compiled: CompiledKernels, memory: WebAssembly.Memory, kernels: Kernels) {
    this.#options = options;
    this.compiled = compiled;
    this.kernels = kernels;
    this.arena = new Arena(memory);
    this.hopMs = compiled.shared ? DESK_HOP_MS : TYPICAL_HOP_MS;
  }

  get shared(): boolean {
    return this.compiled.shared;
  }

  /** How many workers may be used: 0 once they have been found not to start, with the reason in {@link noThreads}. */
  get threads(): number {
    return this.noThreads === undefined ? this.#options.threads : 0;
  }

  prepare(program: Program): WasmRunner {
    return new WasmRunner(this, program);
  }

  /** Zeros in this backend's memory, if threads can share it (x and y there are not copied), else anywhere. */
  allocate(length: number): Float32Array {
    // A private memory's views are detached when it grows, so it is not lent out.
    if (!this.compiled.shared) return new Float32Array(length);
    const address = this.arena.allocate(4 * length);
    const buffer = this.arena.memory.buffer;
    this.#buffers.add(buffer);
    const array = new Float32Array(buffer, address, length).fill(0);
    this.#lent.add(array);
    return array;
  }

  /** Gives an array of {@link allocate} back; any other is left alone. */
  free(array: Float32Array): void {
    if (this.#lent.delete(array)) this.arena.free(array.byteOffset);
  }

  addressOf(array: Float32Array): number | undefined {
    return this.#buffers.has(array.buffer) ? array.byteOffset : undefined;
  }

  /** The pool, started on first use. Rejects, and says that there are no threads from now on, if it does not start. */
  async workers(): Promise<PooledWorker[]> {
    if (this.#disposed) throw new LinrecError("disposed", "The engine has been disposed of.");
    const memory = this.compiled.shared ? this.arena.memory : null;
    const init = { module: this.compiled.module, memory };
    const { threads, workerUrl } = this.#options;
    this.#workers ??= parts.threads().then(
      ({ startWorkers }) => startWorkers(threads, init, workerUrl),
      (cause) => {
        throw new LinrecError("worker-failed", messageOf(cause), { cause });
      },
    );
    try {
      const { workers, hopMs } = await this.#workers;
      this.hopMs = hopMs;
      return workers;
    } catch (error) {
      this.#workers = undefined;
      if (this.#disposed) throw error; // that is what ended them
      this.noThreads = messageOf(error);
      this.#options.onTrouble(`${this.noThreads} Work goes on on the calling thread.`);
      throw error;
    }
  }

  /** Effective flops per ms of one thread on a layer of a middling size, warm: up to MEASURE_MS, twice in a process. */
  measure(): number {
    const known = rates.get(this.compiled.simd);
    if (known && now() < known.until) return known.flopsPerMs;
    const size = 64;
    const tokens = 256;
    const program = programOf(initLru({ dModel: size, dState: size }), "lru");
    const runner = this.prepare(program);
    const x = this.allocate(tokens * size);
    const state = new State(stateLayout(program), 1);
    const job = { batch: 1, seqLen: tokens, lengths: Int32Array.of(tokens), x, y: x, state };
    const start = now();
    let best = Number.POSITIVE_INFINITY;
    // The first runs are slow: the engine optimises the kernels while they run. Steady is what stops improving.
    for (let before = start, steady = 0; before - start < MEASURE_MS && steady < 3; steady++) {
      let time = before;
      let runs = 0;
      for (; time - before < SAMPLE_MS && runs < SAMPLE_RUNS; runs++) {
        runner.atOnce(job);
        time = now();
      }
      if (time <= before) break;
      const ms = (time - before) / runs;
      if (ms < 0.95 * best) steady = 0;
      best = Math.min(best, ms);
      before = time;
    }
    runner.dispose();
    this.free(x);
    const measured = (tokens * flopsPerToken(program)) / (Number.isFinite(best) ? best : TYPICAL_RUN_MS);
    const flopsPerMs = Math.max(measured, known?.flopsPerMs ?? 0);
    rates.set(this.compiled.simd, { flopsPerMs, until: known ? Number.POSITIVE_INFINITY : start + AGAIN_MS });
    return flopsPerMs;
  }

  /**
   * A forward has reached this rate: the measured one was lower if V8 had not yet optimised the kernels, or the machine
   * was busy. It is never lowered: a busy machine says nothing of what the next forward will find.
   */
  observe(flopsPerMs: number): void {
    const known = rates.get(this.compiled.simd);
    if (known && flopsPerMs > known.flopsPerMs) known.flopsPerMs = flopsPerMs;
  }

  /** Ends the pool after a fault: nothing of it is trusted any more. The next job starts a new one. */
  discardWorkers(reason: string): void {
    this.#stopWorkers();
    this.#options.onTrouble(reason);
  }

  dispose(): void {
    this.#disposed = true;
    this.#stopWorkers();
  }

  #stopWorkers(): void {
    this.#workers?.then(
      ({ workers }) => {
        for (const worker of workers) worker.terminate();
      },
      () => {},
    );
    this.#workers = undefined;
  }
}

const MEASURE_MS = 20;
/** Some clocks tick once in a millisecond. */
const SAMPLE_MS = 2;
/** Firefox and WebKit optimise kernels in threads of their own, which takes longer than measuring does: by then it is over. */
const AGAIN_MS = 500;

/** The most runs of a sample: a clock may stand still, as a test's does, and then nothing is measured. */
const SAMPLE_RUNS = 1000;
const TYPICAL_RUN_MS = 0.5;

/** What has been measured in this process, by build of the kernels, and until when it is not measured again. */
const rates = new Map<string, { flopsPerMs: number; until: number }>();
