/**
 * Threads without shared memory (a page that is not cross-origin isolated): spans of tokens are sent to workers with
 * memories of their own, which answer with what each chunk ends on; the calling thread works out the carries and sends
 * them back. Two rounds for each carry stage, the same kernels, the same bits.
 */
import * as Comlink from "comlink";
import type { ForwardJob } from "../backend.js";
import { throwIfAborted } from "../signal.js";
import { CHUNK } from "../state.js";
import { lastAt, Timeline } from "../timeline.js";
import type { Arena } from "./arena.js";
import type { Kernels } from "./instantiate.js";
import type { PackedProgram, StageOf, TileLimits } from "./packed.js";
import type { PooledWorker } from "./pool.js";
import type { Span, SpanReply } from "./protocol.js";
import { noTile, tileStart } from "./tile.js";
import { FINISHED, TileRunner } from "./tiles.js";
import { clearPastLengths } from "./windows.js";

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

interface Task {
  readonly row: number;
  /** Where its y goes, in outputs of the row. */
  readonly outputs: number;
  readonly span: Span;
}

/**
 * Spans are the tiles of this mode, and each costs messages: they are as large as a few milliseconds of work, and what
 * they work on stays in a large cache.
 */
export const spanLimits: TileLimits = { bytes: 4 * 1024 * 1024, tokens: 16384 };

export async function forwardByTransfer(host: TransferHost, job: ForwardJob): Promise<void> {
  const { program, arena } = host;
  const { state, batch } = job;
  const states = arena.allocate(state.bytes.length);
  const temporary = arena.allocate(2 * temporaryBytes(program));
  try {
    new Uint8Array(arena.memory.buffer).set(state.bytes, states);
    throwIfAborted(job.signal);
    const timeline = new Timeline(job);
    clearPastLengths(program, job, timeline);
    let done = 0;
    const tasks = spans(host, job, timeline);
    let finish = () => {};
    for (let group = take(tasks, host.workers.length); group.length > 0; ) {
      const begun = begin(host, group);
      begun.catch(() => {}); // awaited below, after work that the workers' time is good for
      const next = take(tasks, host.workers.length);
      finish();
      const outputs = await runGroup(host, job, timeline, group, await begun, states, temporary);
      throwIfAborted(job.signal); // before y is written: its owner may have gone on
      const tokens = group.reduce((sum, task) => sum + task.span.tokens, 0);
      const written = group;
      finish = () => {
        for (const [i, task] of written.entries()) writeOutput(program, job, task, outputs[i]);
        done += tokens;
        job.onProgress?.(done);
      };
      group = next;
    }
    finish();
    state.bytes.set(new Uint8Array(arena.memory.buffer, states, state.bytes.length));
    for (let row = 0; row < batch; row++) timeline.advance(state, row, job.lengths[row] as number);
  } finally {
    arena.free(states);
    arena.free(temporary);
  }
}

function begin({ workers, deadline }: TransferHost, group: readonly Task[]): Promise<SpanReply[]> {
  const calls = group.map(({ span }, i) => {
    const moved = Comlink.transfer(span, [span.x.buffer, span.state.buffer]);
    return (workers[i] as PooledWorker).call<SpanReply>((api) => api.begin(moved), deadline);
  });
  return Promise.all(calls);
}

function writeOutput(
  program: PackedProgram,
  job: ForwardJob,
  { row, outputs }: Task,
  y: Float32Array | undefined,
): void {
  if (y) job.y.set(y, (row * job.y.length) / job.batch + outputs * program.outputWidth);
}

/** Spans in time order, rows interleaved, so that the spans of a group mostly belong to different rows. */
function* spans(
  { program, programId }: TransferHost,
  job: ForwardJob,
  timeline: Timeline,
): Generator<Task, undefined> {
  const { seqLen, batch, lengths, state, x } = job;
  const { inputWidth: width, tileTokens, pooled } = program;
  const { every } = timeline;
  for (let index = 0; index * tileTokens < seqLen + CHUNK; index++) {
    for (let row = 0; row < batch; row++) {
      const length = lengths[row] as number;
      const k = state.k[row] as number;
      const all = timeline.resets(row);
      const start = tileStart(Math.max(index * tileTokens - k, 0), length, all);
      if (start >= length) continue;
      const end = tileStart(Math.max((index + 1) * tileTokens - k, 0), length, all);
      const from = (row * seqLen + start) * width;
      const initial = state.bytes.slice(row * program.layout.rowBytes, (row + 1) * program.layout.rowBytes);
      const tokens = end - start;
      const part = x.slice(from, from + tokens * width) as Float32Array<ArrayBuffer>;
      const span = {
        program: programId,
        x: part,
        tokens,
        k0: index === 0 ? k : 0,
        last: end === length,
        resets: Array.from(
          all.subarray(lastAt(all, start - 1) + 1, lastAt(all, end - 1) + 1),
          (t) => t - start,
        ),
        phase: timeline.count(row, start) % every,
        every,
        state: initial,
      };
      yield { row, outputs: pooled ? 0 : timeline.outputs(row, start), span };
    }
  }
  return undefined;
}

function take(tasks: Generator<Task, undefined>, count: number): Task[] {
  const group: Task[] = [];
  for (let next = tasks.next(); next.value; next = tasks.next()) {
    group.push(next.value);
    if (group.length === count) break;
  }
  return group;
}

/** Takes the spans of a group, begun on a worker each, through the program in step. Returns each span's y, if it has one. */
async function runGroup(
  host: TransferHost,
  job: ForwardJob,
  timeline: Timeline,
  group: readonly Task[],
  begun: readonly SpanReply[],
  states: number,
  temporary: number,
): Promise<(Float32Array | undefined)[]> {
  const { program, workers, deadline } = host;
  const pooled = new Map<Task, Float32Array>();
  let replies = begun;
  while (replies.some((reply) => reply.stage !== FINISHED)) {
    // In the order of time: a span's carry comes from the row's span before it.
    const calls = group.map((task, i) => {
      const reply = replies[i] as SpanReply;
      if (reply.stage === FINISHED) return reply;
      const carries = commit(host, reply, task.span, states + task.row * program.layout.rowBytes, temporary);
      if (carries === null && task.span.last)
        pooled.set(task, finishPool(host, job, timeline, task, reply.stage, states, temporary));
      const moved = carries && Comlink.transfer(carries, [carries.buffer]);
      return (workers[i] as PooledWorker).call<SpanReply>((api) => api.resume(moved), deadline);
    });
    replies = await Promise.all(calls);
  }
  return group.map((task, i) => {
    const reply = replies[i] as Extract<SpanReply, { stage: -1 }>;
    return pooled.get(task) ?? (reply.y.length > 0 ? reply.y : undefined);
  });
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
  const { stage: at, finals } = reply as Exclude<SpanReply, { stage: -1 }>;
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
  const rowBytes = 32 * stage.groups;
  const carries = temporary + temporaryBytes(program);
  const head = resets[0] ?? tokens;
  const chunks = TileRunner.chunks(head, k0);
  const finished = head && Math.floor((k0 + head) / CHUNK);
  const lambdaT = image + stage.lambdaT;
  if (finished > 0) kernels.carryScan(carries, carry, loc, temporary, lambdaT, finished, 0, 1, stage.groups);
  if (chunks > finished) {
    const [to, from] = [carries + finished * rowBytes, temporary + finished * rowBytes];
    kernels.carryScan(to, carry, loc, from, lambdaT, 1, 0, 2, stage.groups);
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
  host: TransferHost,
  job: ForwardJob,
  timeline: Timeline,
  task: Task,
  at: number,
  states: number,
  temporary: number,
): Float32Array {
  const { runner, program, arena } = host;
  const count = timeline.count(task.row, job.lengths[task.row] as number);
  const state = states + task.row * program.layout.rowBytes;
  runner.begin({ ...noTile(), y: temporary, state, last: true, count });
  runner.local(runner.apply(at));
  return new Float32Array(arena.memory.buffer, temporary, program.outputWidth).slice();
}

/** Room for the finals, or the carries, of the chunks of a span, and for a row of y. */
function temporaryBytes({ scratch, outputWidth }: PackedProgram): number {
  return Math.max(scratch.lambdas - scratch.carries, 4 * outputWidth);
}
