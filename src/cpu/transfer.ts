/**
 * Threads without shared memory (a page that is not cross-origin isolated): spans of tokens are sent to workers with
 * memories of their own. A span whose state is known is run at once. Of any other a worker works out all that needs no
 * carry, answers with what each chunk ends on, and goes to its other lane's span, until the calling thread has the carries
 * and sends them, the last ones with the lane's next span: a message there and one back for each carry stage. The same
 * kernels, the same bits.
 */
import * as Comlink from "comlink";
import type { ForwardJob } from "../backend.js";
import { throwIfAborted } from "../runtime/signal.js";
import { CHUNK } from "../state.js";
import { Timeline } from "../timeline.js";
import type { Arena } from "./arena.js";
import type { Kernels } from "./instantiate.js";
import type { PackedProgram, PackedStage, StageOf } from "./packed.js";
import type { PooledWorker } from "./pool.js";
import { LANES, type Span, type SpanReply } from "./protocol.js";
import { chunksOf, noTile, tileStart } from "./tile.js";
import { FINISHED, type TileRunner } from "./tiles.js";

export interface TransferHost {
  readonly program: PackedProgram;
  readonly programId: number;
  readonly kernels: Kernels;
  readonly arena: Arena;
  /** The program's image in the calling thread's memory, and a runner over it. */
  readonly image: number;
  readonly runner: TileRunner;
  readonly workers: readonly PooledWorker[];
  readonly deadline: number;
}

/** A span to come: `tokens` tokens of a row, the row's `number`th span, whose y starts at `outputs` outputs of the row. */
interface Task {
  readonly row: number;
  readonly number: number;
  readonly start: number;
  readonly tokens: number;
  readonly outputs: number;
}

export async function forwardByTransfer(host: TransferHost, job: ForwardJob): Promise<void> {
  const { program, arena } = host;
  const { state, batch, lengths } = job;
  const states = arena.allocate(state.bytes.length);
  let temporary = 0;
  try {
    temporary = arena.allocate(2 * temporaryBytes(program));
    new Uint8Array(arena.memory.buffer).set(state.bytes, states);
    throwIfAborted(job.signal);
    const timeline = new Timeline(job);
    if (!program.pooled) timeline.clearPastLengths(job.y, lengths, program.outputWidth);
    await new Transfer(host, job, timeline, states, temporary).run();
    state.bytes.set(new Uint8Array(arena.memory.buffer, states, state.bytes.length));
    for (let row = 0; row < batch; row++) timeline.advance(state, row, lengths[row] as number);
  } finally {
    arena.free(states);
    arena.free(temporary);
  }
}

class Transfer {
  readonly #host: TransferHost;
  readonly #job: ForwardJob;
  readonly #timeline: Timeline;
  readonly #states: number;
  readonly #temporary: number;
  /** [rows, stages]: how many of the row's spans have committed a carry stage; undefined for stages that carry nothing. */
  readonly #turns: readonly (readonly (Turn | undefined)[])[];
  /** What is past a row's length is done with. */
  #done: number;
  /** One of the spans has failed: the others leave everything as it is. */
  #over = false;

  constructor(host: TransferHost, job: ForwardJob, timeline: Timeline, states: number, temporary: number) {
    this.#host = host;
    this.#job = job;
    this.#timeline = timeline;
    this.#states = states;
    this.#temporary = temporary;
    this.#done = job.lengths.reduce((done, length) => done + job.seqLen - length, 0);
    const turn = ({ kind }: PackedStage) => (kind === "lru" || kind === "poolAll" ? new Turn() : undefined);
    this.#turns = Array.from({ length: job.batch }, () => host.program.stages.map(turn));
  }

  async run(): Promise<void> {
    const { batch, seqLen, onProgress } = this.#job;
    if (this.#done === batch * seqLen) onProgress?.(this.#done); // no row has a token, and there will be no span to say so
    const tasks = this.#tasks();
    const lanes: Promise<void>[] = [];
    for (let lane = 0; lane < LANES; lane++) {
      for (const worker of this.#host.workers) lanes.push(this.#serve(worker, lane, tasks));
    }
    try {
      await Promise.all(lanes);
    } finally {
      this.#over = true;
    }
  }

  /** In time order, rows interleaved: who waits for a row's span before waits for one that somebody has taken. */
  *#tasks(): Generator<Task, undefined> {
    const { tileTokens, pooled } = this.#host.program;
    const { seqLen, batch, lengths } = this.#job;
    const numbers = new Int32Array(batch);
    for (let index = 0; index * tileTokens < seqLen + CHUNK; index++) {
      for (let row = 0; row < batch; row++) {
        const length = lengths[row] as number;
        const all = this.#timeline.resets(row);
        const k = this.#timeline.k(row, 0);
        const start = tileStart(Math.max(index * tileTokens - k, 0), length, all);
        const tokens = tileStart(Math.max((index + 1) * tileTokens - k, 0), length, all) - start;
        if (tokens === 0) continue;
        const outputs = pooled ? 0 : this.#timeline.outputs(row, start);
        yield { row, number: (numbers[row] as number)++, start, tokens, outputs };
      }
    }
    return undefined;
  }

  /**
   * Takes spans through a lane of a worker, one after the other. What they travel in is used again and again. The last carries of
   * one bring the next, which halves a layer's messages; not where y is over x, as of rows that are read back from their end.
   */
  async #serve(worker: PooledWorker, lane: number, tasks: Iterator<Task, undefined>): Promise<void> {
    const { program } = this.#host;
    const { inputWidth, outputWidth, tileTokens, lastCarry } = program;
    let buffer: ArrayBuffer | undefined;
    let task = await this.#take(tasks);
    while (task) {
      buffer ??= new ArrayBuffer(4 * (tileTokens + CHUNK) * Math.max(inputWidth, outputWidth));
      let span = this.#spanOf(task, lane, buffer);
      let reply = await this.#call(worker, (api) => api.begin(Comlink.transfer(span, [span.x.buffer])));
      let next: Task | undefined;
      let pooled: Float32Array | undefined;
      while (reply.stage !== FINISHED) {
        if (reply.stage === lastCarry) next = await this.#take(tasks);
        const isAlong = next && !this.#job.onto && !this.#isReady(next);
        const along = isAlong ? this.#spanOf(next as Task, lane, reply.buffer) : undefined;
        const turn = this.#turns[task.row]?.[reply.stage] as Turn;
        await turn.reach(task.number);
        this.#check();
        const state = this.#states + task.row * program.layout.rowBytes;
        const carries = commit(this.#host, reply, span, state, this.#temporary);
        if (carries === null && span.last)
          pooled = finishPool(this.#host, reply.stage, span, state, this.#temporary);
        turn.pass();
        const parcel = along ?? reply.buffer;
        reply = await this.#call(worker, (api) =>
          api.resume(
            lane,
            carries && Comlink.transfer(carries, [carries.buffer]),
            Comlink.transfer(parcel, ["x" in parcel ? parcel.x.buffer : parcel]),
          ),
        );
        if (!along) continue;
        this.#deliver(task, reply, pooled);
        [task, span, next, pooled] = [next as Task, along, undefined, undefined];
      }
      this.#deliver(task, reply, pooled);
      buffer = reply.buffer;
      task = next ?? (await this.#take(tasks));
    }
  }

  async #take(tasks: Iterator<Task, undefined>): Promise<Task | undefined> {
    const { value: task } = tasks.next();
    if (task && this.#job.timesteps) await this.#reach(task); // they know no chunks whose carries could be added later
    throwIfAborted(this.#job.signal);
    return task;
  }

  /** Puts what a span has given where it belongs. */
  #deliver(task: Task, { y: given, state: after }: SpanReply, pooled: Float32Array | undefined): void {
    const { program, arena } = this.#host;
    const outputs = given as Float32Array;
    if (after) {
      new Uint8Array(arena.memory.buffer).set(after, this.#states + task.row * program.layout.rowBytes);
      for (const turn of this.#turns[task.row] as Turn[]) turn?.pass();
    }
    const { y, onto, batch } = this.#job;
    const first = onto ? this.#firstOf(task) : task.outputs;
    const at = (task.row * y.length) / batch + first * program.outputWidth;
    if (onto) for (const [i, value] of outputs.entries()) y[at + i] = (onto[at + i] as number) + value;
    else y.set(pooled ?? outputs, at);
    this.#done += task.tokens;
    this.#job.onProgress?.(this.#done);
  }

  async #call(worker: PooledWorker, call: Parameters<typeof worker.call<SpanReply>>[0]): Promise<SpanReply> {
    const reply = await worker.call(call, this.#host.deadline);
    this.#check();
    return reply;
  }

  /** Before anything is written: the owner of y may have gone on. */
  #check(): void {
    throwIfAborted(this.#job.signal);
    if (this.#over) throw new Error("another span has failed");
  }

  async #reach({ row, number }: Task): Promise<void> {
    for (const turn of this.#turns[row] as Turn[]) await turn?.reach(number);
  }

  /** Of a row that is read from its last token back, the task's first in the order of x. */
  #firstOf({ row, start, tokens }: Task): number {
    return (this.#job.lengths[row] as number) - start - tokens;
  }

  /** Whether the state before it is there. */
  #isReady({ row, number }: Task): boolean {
    return (this.#turns[row] as Turn[]).every((turn) => !turn || turn.passed === number);
  }

  #spanOf(task: Task, lane: number, buffer: ArrayBuffer): Span {
    const { row, number, start, tokens, outputs } = task;
    const { program, programId, arena } = this.#host;
    const { seqLen, lengths, x: all, onto, timesteps } = this.#job;
    const timeline = this.#timeline;
    const { inputWidth, layout } = program;
    const x = new Float32Array(buffer, 0, tokens * inputWidth);
    const from = row * seqLen + (onto ? this.#firstOf(task) : start);
    const time = row * seqLen + start;
    x.set(all.subarray(from * inputWidth, (from + tokens) * inputWidth));
    const last = start + tokens === lengths[row];
    const state = this.#states + row * layout.rowBytes;
    return {
      program: programId,
      lane,
      x,
      times: timesteps?.slice(time, time + tokens) as Float32Array<ArrayBuffer> | undefined,
      tokens,
      reversed: onto !== undefined,
      k0: number === 0 ? timeline.k(row, 0) : 0,
      last,
      count: timeline.count(row, lengths[row] as number),
      ...timeline.part(row, start, tokens),
      outputs: program.pooled ? Number(last) : timeline.outputs(row, start + tokens) - outputs,
      every: timeline.every,
      state: this.#isReady(task)
        ? new Uint8Array(arena.memory.buffer).slice(state, state + layout.rowBytes)
        : undefined,
    };
  }
}

/** A place in a row's time that its spans pass one after the other. */
class Turn {
  passed = 0;
  readonly #waiting = new Map<number, () => void>();

  /** Fulfils when `number` spans have passed. */
  async reach(number: number): Promise<void> {
    if (this.passed < number) await new Promise<void>((resolve) => this.#waiting.set(number, resolve));
  }

  pass(): void {
    this.#waiting.get(++this.passed)?.();
  }
}

/**
 * Advances a row's state past a span by what its chunks end on. Returns the float32 carries into the chunks, or null for
 * a pool, whose carries no worker needs.
 */
function commit(
  { kernels, arena, image, program }: TransferHost,
  reply: SpanReply,
  { tokens, k0, resets }: Span,
  state: number,
  temporary: number,
): Uint8Array<ArrayBuffer> | null {
  const { stage: at, finals } = reply as Required<SpanReply>;
  const stage = program.stages[at] as StageOf<"lru" | "poolAll">;
  const memory = new Uint8Array(arena.memory.buffer);
  memory.set(finals, temporary);
  const carry = state + stage.carry;
  const loc = state + stage.loc;
  const reset = resets.length > 0;
  if (stage.kind === "poolAll") {
    const width = program.slots[stage.src] as number;
    if (reset) memory.copyWithin(carry, image + stage.empty, image + stage.empty + 8 * width);
    const length = tokens - (resets.at(-1) ?? 0);
    kernels.poolCarry(carry, loc, temporary, length, reset ? 0 : k0, CHUNK, width, stage.isMax);
    return null;
  }
  // `finals` holds each chunk's last loc: to the kernel, chunks of one token. An unfinished last chunk is the first
  // token of a chunk of two.
  const { groups, real } = stage;
  const rowBytes = 32 * groups;
  const carries = temporary + temporaryBytes(program);
  const head = resets[0] ?? tokens;
  const chunks = chunksOf(head, k0);
  const finished = head && Math.floor((k0 + head) / CHUNK);
  const lambdaT = image + stage.lambdaT;
  if (finished > 0) kernels.carryScan(carries, carry, loc, temporary, lambdaT, finished, 0, 1, groups, real);
  if (chunks > finished) {
    const [to, from] = [carries + finished * rowBytes, temporary + finished * rowBytes];
    kernels.carryScan(to, carry, loc, from, lambdaT, 1, 0, 2, groups, real);
  }
  if (reset) {
    const fresh = temporary + chunks * rowBytes;
    memory.copyWithin(carry, fresh, fresh + 2 * rowBytes);
    memory.copyWithin(loc, fresh + 2 * rowBytes, fresh + 3 * rowBytes);
  }
  return memory.slice(carries, carries + chunks * rowBytes) as Uint8Array<ArrayBuffer>;
}

/** y of the stages from a pool on, for a row whose last token has been read: on the calling thread, which has the sums. */
function finishPool(
  { runner, program, arena }: TransferHost,
  at: number,
  { count }: Span,
  state: number,
  temporary: number,
): Float32Array {
  runner.begin({ ...noTile(), y: temporary, state, last: true, count });
  runner.local(runner.apply(at));
  return new Float32Array(arena.memory.buffer, temporary, program.outputWidth).slice();
}

/** Room for the finals, or the carries, of the chunks of a span, and for a row of y. */
function temporaryBytes({ scratch, outputWidth }: PackedProgram): number {
  return Math.max(scratch.lambdas - scratch.carries, 4 * outputWidth);
}
