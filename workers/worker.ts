/** The worker's entry: what the pool calls through Comlink. One file when built, the same for browsers and Node. */
import * as Comlink from "comlink";
import nodeEndpoint from "comlink/dist/esm/node-adapter.mjs";
import { Arena } from "../src/cpu/arena.js";
import { Desk } from "../src/cpu/desk.js";
import { createMemory, instantiate, type Kernels } from "../src/cpu/instantiate.js";
import type { PackedProgram, PackedStage } from "../src/cpu/packed.js";
import {
  DONE,
  type Span,
  type SpanReply,
  type WorkerApi,
  type WorkerInit,
  type WorkerProgram,
} from "../src/cpu/protocol.js";
import { noTile } from "../src/cpu/tile.js";
import { FINISHED, TileRunner } from "../src/cpu/tiles.js";
import { runShare } from "../src/cpu/wavefront.js";
import { importLater } from "../src/importLater.js";
import { CHUNK } from "../src/state.js";

interface Loaded {
  readonly packed: PackedProgram;
  readonly image: number;
  /** The last scratch block's runner: a worker's block moves only when a program is loaded. */
  runner: TileRunner | undefined;
  scratch: number;
}

/** The span that a worker with a private memory is at. */
interface OpenSpan {
  readonly loaded: Loaded;
  readonly span: Span;
  /** What to free when it ends. */
  readonly blocks: readonly number[];
  readonly y: number;
  /** The stage that waits for its carries. */
  stage: number;
}

class Worker implements WorkerApi {
  #memory!: WebAssembly.Memory;
  #kernels!: Kernels;
  /** Of a private memory; undefined where memory is shared, which the calling thread plans alone. */
  #arena: Arena | undefined;
  #desk: Desk | undefined;
  readonly #post: (message: unknown) => void;
  readonly #programs = new Map<number, Loaded>();
  #span: OpenSpan | undefined;

  constructor(post: (message: unknown) => void) {
    this.#post = post;
  }

  async init({ module, memory, desk }: WorkerInit): Promise<void> {
    this.#desk = desk && new Desk(desk);
    this.#memory = memory ?? createMemory(false, 1);
    this.#arena = memory ? undefined : new Arena(this.#memory);
    this.#kernels = await instantiate(module, this.#memory);
  }

  load({ id, packed, image }: WorkerProgram): void {
    let address = image;
    let scratch = 0;
    if (this.#arena) {
      address = this.#arena.allocate(packed.image.length);
      new Uint8Array(this.#memory.buffer).set(packed.image, address);
      scratch = this.#arena.allocate(packed.scratch.bytes);
    }
    this.#programs.set(id, { packed, image: address ?? 0, runner: undefined, scratch });
  }

  unload(id: number): void {
    const loaded = this.#programs.get(id);
    this.#programs.delete(id);
    if (loaded && this.#arena) {
      this.#arena.free(loaded.image);
      this.#arena.free(loaded.scratch);
    }
  }

  run(): void {
    const desk = this.#desk as Desk;
    do {
      const { program, window, scratch } = desk.read();
      const loaded = this.#loaded(program);
      runShare(this.#runner(loaded, scratch), loaded.packed, this.#memory, window);
      desk.look();
      this.#post(DONE);
    } while (desk.waitBriefly());
  }

  begin(span: Span): SpanReply {
    this.#endSpan();
    const arena = this.#arena as Arena;
    const loaded = this.#loaded(span.program);
    const { packed } = loaded;
    const x = arena.allocate(span.x.byteLength);
    const y = arena.allocate(4 * packed.outputWidth * (packed.pooled ? 1 : span.tokens));
    const state = arena.allocate(span.state.length);
    new Float32Array(this.#memory.buffer).set(span.x, x / 4);
    new Uint8Array(this.#memory.buffer).set(span.state, state);
    const runner = this.#runner(loaded, loaded.scratch);
    const { tokens, k0, last, resets, phase, every } = span;
    runner.begin({ ...noTile(), x, y, tokens, k0, state, last, resets: [...resets], phase, every });
    this.#span = { loaded, span, blocks: [x, y, state], y, stage: 0 };
    return this.#reply(runner.local(0));
  }

  resume(carries: Uint8Array<ArrayBuffer> | null): SpanReply {
    if (!this.#span) throw new Error("resume without a span");
    const { loaded, stage } = this.#span;
    if (carries === null) {
      this.#endSpan();
      return { stage: FINISHED, y: new Float32Array() };
    }
    const runner = this.#runner(loaded, loaded.scratch);
    new Uint8Array(this.#memory.buffer).set(carries, runner.carries);
    return this.#reply(runner.local(runner.apply(stage)));
  }

  #reply(at: number): SpanReply {
    const current = this.#span as OpenSpan;
    const { loaded, span, y } = current;
    if (at !== FINISHED) {
      current.stage = at;
      this.#runner(loaded, loaded.scratch).project(at);
      const finals = this.#finals(loaded, loaded.packed.stages[at] as PackedStage, span);
      return Comlink.transfer({ stage: at, finals }, [finals.buffer]);
    }
    const { packed } = loaded;
    const rows = packed.pooled ? (span.last ? 1 : 0) : this.#runner(loaded, loaded.scratch).rows;
    const result = new Float32Array(
      this.#memory.buffer,
      y,
      rows * packed.outputWidth,
    ).slice() as Float32Array<ArrayBuffer>;
    this.#endSpan();
    return Comlink.transfer({ stage: FINISHED, y: result }, [result.buffer]);
  }

  /** What the calling thread needs to work out the carries: {@link SpanReply}. */
  #finals(loaded: Loaded, stage: PackedStage, { tokens, k0, resets }: Span): Uint8Array<ArrayBuffer> {
    const runner = this.#runner(loaded, loaded.scratch);
    const memory = new Uint8Array(this.#memory.buffer);
    const reset = resets.length > 0;
    if (stage.kind !== "lru") {
      const chunks = TileRunner.chunks(tokens - (resets.at(-1) ?? 0), reset ? 0 : k0);
      const bytes = chunks * 8 * (loaded.packed.slots[stage.src] as number);
      return memory.slice(runner.carries, runner.carries + bytes) as Uint8Array<ArrayBuffer>;
    }
    const head = resets[0] ?? tokens;
    const chunks = TileRunner.chunks(head, k0);
    const rowBytes = 32 * stage.groups;
    const finals = new Uint8Array((chunks + (reset ? 3 : 0)) * rowBytes);
    for (let c = 0; c < chunks; c++) {
      const token = Math.min((c + 1) * CHUNK - k0, head) - 1;
      const from = runner.loc + token * rowBytes;
      finals.set(memory.subarray(from, from + rowBytes), c * rowBytes);
    }
    if (reset) finals.set(memory.subarray(runner.fresh, runner.fresh + 3 * rowBytes), chunks * rowBytes);
    return finals;
  }

  #endSpan(): void {
    for (const block of this.#span?.blocks ?? []) this.#arena?.free(block);
    this.#span = undefined;
  }

  #loaded(id: number): Loaded {
    const loaded = this.#programs.get(id);
    if (!loaded) throw new Error(`no program ${id} is loaded in this worker`);
    return loaded;
  }

  #runner(loaded: Loaded, scratch: number): TileRunner {
    if (!loaded.runner || loaded.scratch !== scratch) {
      loaded.scratch = scratch;
      loaded.runner = new TileRunner(this.#kernels, loaded.packed, loaded.image, scratch);
    }
    return loaded.runner;
  }
}

if (typeof postMessage === "function" && typeof addEventListener === "function") {
  Comlink.expose(new Worker((message) => postMessage(message)));
} else {
  // A Node worker has its port in a module.
  const threads = (await importLater("node:worker_threads")) as typeof import("node:worker_threads");
  const port = threads.parentPort;
  if (port) Comlink.expose(new Worker((message) => port.postMessage(message)), nodeEndpoint(port));
}
