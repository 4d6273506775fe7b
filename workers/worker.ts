/** The worker's entry: what the pool calls through Comlink. One file when built, the same for browsers and Node. */
import * as Comlink from "comlink";
import nodeEndpoint from "comlink/dist/esm/node-adapter.mjs";
import { Arena } from "../src/cpu/arena.js";
import { Desk } from "../src/cpu/desk.js";
import { createMemory, instantiate, type Kernels } from "../src/cpu/instantiate.js";
import type { PackedProgram, PackedStage } from "../src/cpu/packed.js";
import {
  LANES,
  type Span,
  type SpanReply,
  type WorkerApi,
  type WorkerInit,
  type WorkerProgram,
} from "../src/cpu/protocol.js";
import { runShare } from "../src/cpu/share.js";
import { isInputDirect, isOutputDirect } from "../src/cpu/slots.js";
import { modelStages } from "../src/cpu/stages.js";
import { chunksOf, noTile } from "../src/cpu/tile.js";
import { FINISHED, TileRunner } from "../src/cpu/tiles.js";
import { RowTableView, runWindow } from "../src/cpu/window.js";
import { importLater } from "../src/runtime/importLater.js";
import { CHUNK } from "../src/state.js";

interface Loaded {
  readonly packed: PackedProgram;
  readonly image: number;
  readonly tileTokens: number;
  /** In shared memory the last scratch block's runner: a worker's block moves only when a program is loaded. */
  runner: TileRunner | undefined;
  scratch: number;
  /** In a private memory each lane's. */
  readonly lanes: readonly { readonly scratch: number; readonly runner: TileRunner }[];
}

/** The span that a lane of a worker with a private memory is at. */
interface OpenSpan {
  readonly loaded: Loaded;
  readonly runner: TileRunner;
  readonly span: Span;
  /** What to free when it ends. */
  readonly blocks: readonly number[];
  readonly x: number;
  readonly y: number;
  readonly state: number;
  readonly times: number;
  readonly table: number;
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
  readonly #spans: (OpenSpan | undefined)[] = [];

  constructor(post: (message: unknown) => void) {
    this.#post = post;
  }

  async init({ module, memory, desk }: WorkerInit): Promise<void> {
    this.#desk = desk && new Desk(desk);
    this.#memory = memory ?? createMemory(false, 1);
    this.#arena = memory ? undefined : new Arena(this.#memory);
    this.#kernels = await instantiate(module, this.#memory);
  }

  async load({ id, packed, image, tileTokens, wide }: WorkerProgram): Promise<void> {
    if (wide && !this.#kernels.gelu) Object.assign(this.#kernels, await instantiate(wide, this.#memory));
    const arena = this.#arena;
    const address = arena?.allocate(packed.image.length) ?? image ?? 0;
    if (arena) new Uint8Array(this.#memory.buffer).set(packed.image, address);
    const lanes = Array.from({ length: arena ? LANES : 0 }, () => {
      const scratch = (arena as Arena).allocate(packed.scratch.bytes);
      return { scratch, runner: new TileRunner(this.#kernels, packed, address, scratch, modelStages) };
    });
    this.#programs.set(id, { packed, image: address, tileTokens, runner: undefined, scratch: 0, lanes });
  }

  unload(id: number): void {
    const loaded = this.#programs.get(id);
    this.#programs.delete(id);
    if (loaded && this.#arena) {
      this.#arena.free(loaded.image);
      for (const { scratch } of loaded.lanes) this.#arena.free(scratch);
    }
  }

  run(): void {
    const desk = this.#desk as Desk;
    if (!desk.take()) return;
    do {
      const { program, window, scratch } = desk.read();
      const loaded = this.#loaded(program);
      runShare(this.#runner(loaded, scratch), loaded.packed, this.#memory, window);
      const { number } = desk;
      desk.look();
      this.#post(number);
    } while (desk.waitBriefly());
  }

  begin(span: Span): SpanReply {
    this.#endSpan(span.lane); // of a forward that was given up
    const opened = this.#open(span);
    return this.#reply(opened, this.#start(opened), span.x.buffer);
  }

  resume(lane: number, carries: Uint8Array<ArrayBuffer> | null, next: Span | ArrayBuffer): SpanReply {
    const current = this.#spans[lane];
    if (!current) throw new Error("resume without a span");
    const { runner, stage } = current;
    let at = FINISHED;
    if (carries) {
      new Uint8Array(this.#memory.buffer).set(carries, runner.lru.carries);
      at = runner.local(runner.apply(stage));
    }
    if (next instanceof ArrayBuffer) return this.#reply(current, at, next);
    const opened = this.#open(next); // before y goes where its x came in
    const done = this.#finish(current, next.x.buffer);
    return this.#reply(opened, this.#start(opened), next.x.buffer, done);
  }

  /** Takes in what a span brings. */
  #open(span: Span): OpenSpan {
    const { lane, x, times, state, resets } = span;
    const arena = this.#arena as Arena;
    const loaded = this.#loaded(span.program);
    const { packed } = loaded;
    const { runner, scratch } = loaded.lanes[lane] as Loaded["lanes"][number];
    const blocks: number[] = [];
    const take = (bytes: number) => {
      const block = arena.allocate(bytes);
      blocks.push(block);
      return block;
    };
    const slotAt = (slot: number) => scratch + (packed.scratch.slots[slot] as number);
    const isDirect = isOutputDirect(packed) && span.every === 1;
    const opened = {
      ...{ loaded, runner, span, blocks, stage: 0 },
      x: isInputDirect(packed) ? slotAt(0) : take(x.byteLength),
      // Reversed, over x: token by token in the same places.
      y: isDirect ? slotAt(span.reversed ? 0 : packed.output) : take(4 * packed.outputWidth * span.outputs),
      state: take(packed.layout.rowBytes),
      times: times ? take(times.byteLength) : 0,
      table: take(RowTableView.bytes(1, resets.length)),
    };
    const memory = this.#memory.buffer;
    new Float32Array(memory).set(x, opened.x / 4);
    if (state) new Uint8Array(memory).set(state, opened.state);
    if (times) new Float32Array(memory).set(times, opened.times / 4);
    this.#spans[lane] = opened;
    return opened;
  }

  /** Runs a span to the first stage that needs carries: with its state given, to its end. */
  #start({ loaded: { packed, tileTokens }, runner, span, x, y, state, times, table }: OpenSpan): number {
    const { tokens, k0, every } = span;
    const reversed = Number(span.reversed);
    if (!span.state) {
      const last = 4 * (tokens - 1) * reversed;
      const at = { x: x + last * packed.inputWidth, y: y + last * packed.outputWidth, state };
      runner.begin({ ...noTile(), ...span, ...at, times: 0, resets: [...span.resets] });
      return runner.local(0);
    }
    new RowTableView(this.#memory, table, 1).write(0, span);
    const tilesPerRow = Math.ceil((k0 + tokens) / tileTokens);
    const tiles = { tileTokens, tail: tilesPerRow, tailTokens: tileTokens, tilesPerRow };
    const rows = { xRowBytes: 0, yRowBytes: 0, timesRowBytes: 0, reversed, adds: 0 };
    const at = { x, y, times, states: state, table, control: 0 };
    runWindow(runner, packed, this.#memory, { rows: 1, every, ...tiles, ...rows, ...at });
    return FINISHED;
  }

  /** @param done what there is to say of the lane's span before */
  #reply(current: OpenSpan, at: number, buffer: ArrayBuffer, done?: Partial<SpanReply>): SpanReply {
    if (at === FINISHED) {
      this.#spans[current.span.lane] = undefined;
      return Comlink.transfer({ stage: FINISHED, buffer, ...this.#finish(current, buffer) }, [buffer]);
    }
    const { loaded, runner } = current;
    current.stage = at;
    while (runner.project(at));
    const finals = this.#finals(current, loaded.packed.stages[at] as PackedStage);
    return Comlink.transfer({ ...done, stage: at, finals, buffer }, [finals.buffer, buffer]);
  }

  /** The end of a span: its y, if it gives one, in a buffer. */
  #finish({ loaded: { packed }, span, blocks, y: from, state: address }: OpenSpan, buffer: ArrayBuffer) {
    const memory = this.#memory.buffer;
    const count = span.outputs * packed.outputWidth;
    const y = new Float32Array(buffer, 0, count);
    y.set(new Float32Array(memory, from, count));
    const state = span.state && new Uint8Array(memory).slice(address, address + packed.layout.rowBytes);
    this.#free(blocks);
    return { y, state };
  }

  /** What the calling thread needs to work out the carries: {@link SpanReply}. */
  #finals({ loaded, runner, span }: OpenSpan, stage: PackedStage): Uint8Array<ArrayBuffer> {
    const { tokens, k0, resets } = span;
    const memory = new Uint8Array(this.#memory.buffer);
    const reset = resets.length > 0;
    if (stage.kind !== "lru") {
      const chunks = chunksOf(tokens - (resets.at(-1) ?? 0), reset ? 0 : k0);
      const bytes = chunks * 8 * (loaded.packed.slots[stage.src] as number);
      return memory.slice(runner.lru.carries, runner.lru.carries + bytes) as Uint8Array<ArrayBuffer>;
    }
    const head = resets[0] ?? tokens;
    const chunks = chunksOf(head, k0);
    const rowBytes = 32 * stage.groups;
    const finals = new Uint8Array((chunks + (reset ? 3 : 0)) * rowBytes);
    for (let c = 0; c < chunks; c++) {
      const token = Math.min((c + 1) * CHUNK - k0, head) - 1;
      const from = runner.lru.h + token * rowBytes;
      finals.set(memory.subarray(from, from + rowBytes), c * rowBytes);
    }
    if (reset)
      finals.set(memory.subarray(runner.lru.fresh, runner.lru.fresh + 3 * rowBytes), chunks * rowBytes);
    return finals;
  }

  #endSpan(lane: number): void {
    this.#free(this.#spans[lane]?.blocks ?? []);
    this.#spans[lane] = undefined;
  }

  #free(blocks: readonly number[]): void {
    for (const block of blocks) this.#arena?.free(block);
  }

  #loaded(id: number): Loaded {
    const loaded = this.#programs.get(id);
    if (!loaded) throw new Error(`no program ${id} is loaded in this worker`);
    return loaded;
  }

  #runner(loaded: Loaded, scratch: number): TileRunner {
    if (!loaded.runner || loaded.scratch !== scratch) {
      loaded.scratch = scratch;
      loaded.runner = new TileRunner(this.#kernels, loaded.packed, loaded.image, scratch, modelStages);
    }
    return loaded.runner;
  }
}

const calls: unknown[] = ["init", "load", "unload", "run", "begin", "resume"] satisfies (keyof WorkerApi)[];

/**
 * Hears each message before Comlink does, which follows any path and sets what it leads to, Object.prototype too: what is no
 * call of the API is made a message of no kind.
 */
function guard(message: unknown): void {
  const { type, path } = Object(message) as { type?: unknown; path?: unknown[] };
  if (type !== "APPLY" || path?.length !== 1 || !calls.includes(path[0]))
    Object.assign(Object(message), { type: "", path: [], argumentList: [] });
}

if (typeof postMessage === "function" && typeof addEventListener === "function") {
  addEventListener("message", ({ data }) => guard(data));
  Comlink.expose(new Worker((message) => postMessage(message)));
} else {
  // A Node worker has its port in a module.
  const threads = (await importLater("node:worker_threads")) as typeof import("node:worker_threads");
  const port = threads.parentPort;
  if (port) {
    port.on("message", guard);
    Comlink.expose(new Worker((message) => port.postMessage(message)), nodeEndpoint(port));
  }
}
