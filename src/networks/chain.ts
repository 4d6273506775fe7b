/**
 * A network whose rate changes, run as a chain of programs: segment by segment through all of them, on one backend, each
 * program's state carried along. What is between them (`links.ts`) is plain loops on the calling thread, unless the backend
 * takes a segment through all links itself; so memory is bounded at any length, and every promise that the backends keep
 * holds of the whole. Each segment is committed: a chain on another backend goes on from the last.
 */
import type { ForwardJob, Linked, Runner } from "../backend.js";
import type { Stepper } from "../engine/host.js";
import { inputWidth, type Network, outputWidth, slotWidth } from "../program.js";
import { type Rates, ratesOf } from "../rates.js";
import { breathing } from "../runtime/macrotask.js";
import { throwIfAborted } from "../runtime/signal.js";
import type { State } from "../state.js";
import { Timeline } from "../timeline.js";
import { hold, legsOf, pool, type Rows, shift } from "./links.js";

/** What the walk through the links asks its driver for: y of a part, whose place is taken, with its state advanced. */
interface PartRun {
  readonly index: number;
  readonly x: Rows;
  readonly y: Float32Array;
  readonly state: State;
}

/** Some tokens of a row, from `start` on; it would have `most` were it as long as the longest. */
interface Span {
  readonly start: number;
  readonly length: number;
  readonly most: number;
}

/** Tokens of each row that go through the chain together, from `from` on in its span: `known` of them are no padding. */
interface Segment extends Rows {
  readonly from: number;
  readonly known: readonly number[];
}

/** @template Part what each part is run by: a Runner for `forward`, a Stepper for `step` */
export class Chain<Part extends Partial<Runner & Stepper>> implements Runner, Stepper {
  readonly #network: Network;
  readonly #parts: readonly Part[];
  readonly #rates: Rates;
  /** What takes segments through all links, in place of the parts. */
  readonly #linked: Linked | undefined;
  /** y is one row for each sequence. */
  readonly #pools: boolean;
  /** Float64Array for the oracle, which takes those too. */
  readonly #Floats: Float32ArrayConstructor;
  /** A step's, which are never used by two at a time. */
  readonly #buffers: Buffers;

  /** @param exact keep what is between the parts in float64 */
  constructor(network: Network, parts: readonly Part[], exact: boolean, linked?: Linked) {
    this.#network = network;
    this.#parts = parts;
    this.#linked = linked;
    this.#rates = ratesOf(network) as Rates;
    this.#pools = this.#rates.links.at(-1)?.kind === "hold";
    this.#Floats = exact ? (Float64Array as unknown as Float32ArrayConstructor) : Float32Array;
    this.#buffers = new Buffers(this.#Floats);
  }

  async forward(job: ForwardJob): Promise<void> {
    const { batch, seqLen, lengths, y, state, done = new Int32Array(batch) } = job;
    const timeline = new Timeline(job);
    const committed = state.clone();
    const commit = () => {
      committed.copyFrom(state);
      const tokens = done.reduce((sum, tokens) => sum + tokens, 0);
      if (tokens < batch * seqLen) job.onProgress?.(tokens);
    };
    if (!this.#pools) timeline.clearPastLengths(y, lengths, outputWidth(this.#network));
    // What is between two resets is a sequence of its own: the n-th of each row together, or where they pool the last ones.
    const breathe = breathing(); // one for all: a span may be short, and there may be many
    const starts = Array.from(lengths, (_, row) => [0, ...timeline.resets(row)]);
    const most = starts.reduce((most, { length }) => Math.max(most, length), 0);
    for (let n = this.#pools ? most - 1 : 0; n < most; n++) {
      const spans = starts.map((own, row): Span => {
        const i = this.#pools ? own.length - 1 : n;
        const [start, end] = [own[i] ?? seqLen, own[i + 1] ?? (lengths[row] as number)];
        // Its own count stays: what is gone on with tells from it where the rows began.
        if (i > 0 && i < own.length && (done[row] as number) <= start)
          for (const part of state.parts) part.resetRow(row);
        return { start, length: Math.max(0, end - start), most: seqLen - start };
      });
      try {
        await this.#forward({ ...job, done }, timeline, spans, commit, breathe);
      } catch (error) {
        state.copyFrom(committed);
        throw error;
      }
    }
    for (let row = 0; row < batch; row++) state.restartRow(row, timeline.count(row, lengths[row] as number));
    job.onProgress?.(batch * seqLen);
  }

  /** Takes what is not done of one span of each row through the chain, and commits each segment. */
  async #forward(
    job: ForwardJob & { readonly done: Int32Array },
    timeline: Timeline,
    spans: readonly Span[],
    commit: () => void,
    breathe: () => Promise<void> | undefined,
  ): Promise<void> {
    const { batch, seqLen, x, y, state, done, signal, timesteps } = job;
    const [inWidth, outWidth] = [inputWidth(this.#network), outputWidth(this.#network)];
    const { padding } = this.#rates;
    const size = (this.#linked ?? this.#rates).segmentTokens(batch, timesteps !== undefined);
    const buffers = new Buffers(this.#Floats);
    const padded = Int32Array.from(spans, ({ length }) => Math.ceil(length / padding) * padding);
    const longest = padded.reduce((most, length) => Math.max(most, length), 0);
    const drive = async (rows: Rows, state: State): Promise<Rows> => {
      const walk = this.#walk(rows, state, buffers);
      for (let next = walk.next(); ; next = walk.next()) {
        throwIfAborted(signal);
        if (next.done) return next.value;
        const { index, x, y, state } = next.value;
        const rest = { batch, threads: job.threads, signal, onProgress: undefined };
        const part = { seqLen: x.seqLen, lengths: x.counts, x: x.data, timesteps: x.times?.data, y, state };
        await (this.#parts[index] as Runner).forward({ ...rest, ...part });
        await breathe();
      }
    };
    const take = async <Each extends Rows>(
      all: Iterable<Each>,
      state: State,
      land: (each: Each, end: Rows) => void,
    ): Promise<void> => {
      if (this.#linked) return this.#linked.run(all, state, signal, land, { legsOf, hold });
      for (const each of all) land(each, await drive(each, state));
    };
    // Whoever began may have had other segments.
    const gone = spans.reduce(
      (most, { start, length }, row) => Math.max(most, Math.min((done[row] as number) - start, length)),
      0,
    );
    const Floats = this.#Floats;
    function* segments(): Generator<Segment, void> {
      for (let from = Math.ceil(gone / padding) * padding; from < longest; from += size) {
        const counts = padded.map((length) => Math.max(0, Math.min(length - from, size)));
        const tokens = Math.min(longest - from, size);
        const known = spans.map(({ length }) => Math.max(0, Math.min(length - from, tokens)));
        // x itself is float32, or holds the bits of ids.
        const data = new Float32Array(batch * tokens * inWidth);
        const times = timesteps && new Floats(batch * tokens).fill(1);
        for (const [row, count] of known.entries()) {
          const first = row * seqLen + (spans[row] as Span).start + from;
          data.set(x.subarray(first * inWidth, (first + count) * inWidth), row * tokens * inWidth);
          times?.set((timesteps as Float32Array).subarray(first, first + count), row * tokens);
        }
        yield { data, seqLen: tokens, counts, times: times && { data: times, known }, from, known };
      }
    }
    await take(segments(), state, ({ from, known }, end) => {
      if (this.#pools) y.set(end.data);
      for (const [row, count] of known.entries()) {
        if (count === 0) continue;
        const start = (spans[row] as Span).start + from;
        done[row] = start + count;
        if (this.#pools) continue;
        const own = end.data.subarray(row * end.seqLen * outWidth, (row * end.seqLen + count) * outWidth);
        const to = (row * y.length) / batch + timeline.outputs(row, start) * outWidth;
        copyEvery(y, to, own, outWidth, timeline.every, timeline.count(row, start));
      }
      commit();
    });
    if (this.#pools && spans.some(({ length, most }) => length < most)) {
      // The last windows of rows that end before the others. What follows a row in time must not see them: a copy does.
      const none = { data: new this.#Floats(0), seqLen: 0, counts: new Int32Array(batch) };
      const totals = spans.map(({ start, most }, row) => timeline.count(row, start) + most);
      const times = timesteps && { data: none.data, known: none.counts };
      await take([{ ...none, totals, times }], state.clone(), (_, end) => {
        for (let row = 0; row < batch; row++) {
          const from = row * outWidth;
          if (end.counts[row]) y.set(end.data.subarray(from, from + outWidth), from);
        }
      });
    }
  }

  step(x: Float32Array, y: Float32Array, state: State, timesteps?: Float32Array): void {
    const { batch } = state;
    const counts = new Int32Array(batch).fill(1);
    const times = timesteps && { data: timesteps, known: counts };
    const walk = this.#walk({ data: x, seqLen: 1, counts, times }, state, this.#buffers);
    let next = walk.next();
    for (; !next.done; next = walk.next()) stepSome(this.#parts[next.value.index] as Stepper, next.value);
    y.set(next.value.data);
    for (let row = 0; row < batch; row++) state.restartRow(row, (state.count[row] as number) + 1);
  }

  dispose(): void {
    for (const part of this.#parts) part.dispose?.();
    this.#linked?.dispose();
  }

  /** Takes rows through the links. A part that none of them reaches is left out. */
  *#walk(rows: Rows, state: State, buffers: Buffers): Generator<PartRun, Rows, void> {
    const { batch } = state;
    const at = new Map([[0, rows]]);
    let index = 0;
    for (const [i, leg] of legsOf(this.#network, rows, state, this.#Floats).entries()) {
      const { link } = leg;
      const x = at.get(link.src) as Rows;
      let { data } = x;
      if (link.kind !== "reshape") {
        data = buffers.take(i, batch * leg.y.seqLen * slotWidth(this.#network, link.dst));
        if (link.kind === "part") {
          if (x.counts.some((count) => count > 0)) yield { index, x, y: data, state: leg.state };
          index++;
        } else if (link.kind === "add") {
          const other = (at.get(link.other) as Rows).data;
          for (let j = 0; j < data.length; j++) data[j] = (x.data[j] as number) + (other[j] as number);
        } else if (link.kind === "shift") shift(link, x.data, leg, data);
        else if (link.kind === "hold") hold(link, x.data, leg, data);
        else pool(link, x.data, leg, data);
      }
      at.set(link.dst, { ...leg.y, data });
    }
    return at.get(this.#network.output) as Rows;
  }
}

/** Memory by link, kept from segment to segment. */
class Buffers {
  readonly #Floats: Float32ArrayConstructor;
  readonly #arrays: Float32Array[] = [];

  constructor(Floats: Float32ArrayConstructor) {
    this.#Floats = Floats;
  }

  take(link: number, length: number): Float32Array {
    let array = this.#arrays[link];
    if (!array || array.length < length) array = this.#arrays[link] = new this.#Floats(length);
    return array.subarray(0, length);
  }
}

/** A step of those rows that have a new token here: with windows that rows are in at different places, not all have. */
function stepSome(part: Stepper, { x: { data, counts, times }, y, state }: PartRun): void {
  const rows = Int32Array.from(counts.keys()).filter((row) => counts[row]);
  if (rows.length === counts.length) {
    part.step(data, y, state, times?.data);
    return;
  }
  const [inWidth, outWidth] = [data.length / counts.length, y.length / counts.length];
  const [xs, ys] = [data.slice(0, rows.length * inWidth), y.slice(0, rows.length * outWidth)];
  const some = state.pick(rows);
  for (const [i, row] of rows.entries())
    xs.set(data.subarray(row * inWidth, (row + 1) * inWidth), i * inWidth);
  part.step(xs, ys, some, times && Float32Array.from(rows, (row) => times.data[row] as number));
  for (const [i, row] of rows.entries()) y.set(ys.subarray(i * outWidth, (i + 1) * outWidth), row * outWidth);
  state.put(rows, some);
}

/** Copies those of the rows of `from` that are the every-th, 2 every-th, ... after `count` rows before. */
function copyEvery(
  y: Float32Array,
  to: number,
  from: Float32Array,
  width: number,
  every: number,
  count: number,
): void {
  if (every === 1) {
    y.set(from, to);
    return;
  }
  const first = every - 1 - (count % every);
  for (let at = first * width; at < from.length; at += every * width, to += width)
    y.set(from.subarray(at, at + width), to);
}
