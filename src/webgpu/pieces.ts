/** A forward cut into what the GPU takes at a time, as numbers and tables: plain arithmetic, without a GPU. */
import type { ForwardJob } from "../backend.js";
import { LinrecError } from "../errors.js";
import { lastAt, type Timeline } from "../timeline.js";
import { type Segment, segmentOf } from "./pipelines.js";
import { areaBytes, type Layout, READBACKS } from "./plan.js";
import { T } from "./tiles.js";

/** Some tokens of one row, [start, end). Parts stand one after the other in a piece, and so do their chunks and outputs. */
export interface Part {
  readonly row: number;
  readonly start: number;
  readonly end: number;
}

/** Whole rows, or a part of one row. */
export interface Piece {
  readonly parts: readonly Part[];
  readonly segment: Segment;
  /** The most that it and the other pieces of its rows need: areas must not grow while a state is in one. */
  readonly room: Segment;
  /** Nothing of these rows comes after it. */
  readonly isLast: boolean;
}

/** What a piece may not exceed: bytes of one area, bytes of all of them, and multiplications and additions. */
export interface Bounds {
  readonly areaBytes: number;
  readonly totalBytes: number;
  readonly flops: number;
}

/**
 * As many whole rows as fit, one after the other, or of a longer row as many tokens as fit. Rows without tokens are in
 * none. `totalBytes` and `flops` yield where even one token exceeds them; throws `unsupported` if an area does.
 */
export function* piecesOf(
  layout: Layout,
  { batch, lengths }: Pick<ForwardJob, "batch" | "lengths">,
  timeline: Timeline,
  bounds: Bounds,
): Generator<Piece, void> {
  const tooWide = layout.areas.some((area) => areaBytes(area, segmentOf(1, 1)) > bounds.areaBytes);
  if (tooWide) {
    throw new LinrecError(
      "unsupported",
      `A layer is too wide for this GPU: it binds at most ${bounds.areaBytes} bytes.`,
    );
  }
  const fits = fitting(layout, bounds);
  const nothing = segmentOf(0, 0);
  const plus = (a: Segment, b: Segment) => combine(a, b, (a, b) => a + b);
  let [parts, size]: [Part[], Segment] = [[], nothing];
  for (let row = 0; row < batch; row++) {
    const length = lengths[row] as number;
    if (length === 0) continue;
    const whole = { row, start: 0, end: length };
    const own = sizeOf(layout.lift, whole, timeline);
    const isShort = fits(own);
    if (parts.length > 0 && !(isShort && fits(plus(size, own)))) {
      yield { parts, segment: size, room: size, isLast: true };
      [parts, size] = [[], nothing];
    }
    if (isShort) {
      parts.push(whole);
      size = plus(size, own);
      continue;
    }
    if (layout.whole) {
      const message = `A row of ${length} tokens is more than this GPU takes at a time`;
      throw new LinrecError("unsupported", `${message}, and it is read from both ends.`);
    }
    let room = nothing;
    const pieces: { part: Part; segment: Segment }[] = [];
    for (let start = 0, end = 0; start < length; start = end) {
      end = furthest(layout.lift, row, start, length, timeline, fits);
      const part = { row, start, end };
      const segment = sizeOf(layout.lift, part, timeline);
      room = combine(room, segment, Math.max);
      pieces.push({ part, segment });
    }
    for (const { part, segment } of pieces)
      yield { parts: [part], segment, room, isLast: part.end === length };
  }
  if (parts.length > 0) yield { parts, segment: size, room: size, isLast: true };
}

/** Rows of a piece, and tokens of each, where as many as `rows` all have as many as `tokens`. */
export function evenPiece(
  layout: Layout,
  rows: number,
  tokens: number,
  bounds: Bounds,
): { rows: number; tokens: number } {
  const fits = fitting(layout, bounds);
  const size = T * layout.lift;
  const whole = Math.ceil(tokens / size);
  const holds = (rows: number, chunks: number) =>
    fits({ ...segmentOf(rows, Math.min(tokens, chunks * size)), chunks: rows * chunks });
  const together = most(rows, (count) => holds(count, whole));
  const chunks = together ? whole : most(whole, (count) => holds(1, count)) || 1;
  return { rows: together || 1, tokens: Math.min(tokens, chunks * size) };
}

/** The largest number up to `limit` that fits, where all smaller ones do: most often the limit itself. */
function most(limit: number, fits: (count: number) => boolean): number {
  if (fits(limit)) return limit;
  let [few, many] = [0, limit - 1];
  while (few < many) {
    const count = Math.ceil((few + many) / 2);
    if (fits(count)) few = count;
    else many = count - 1;
  }
  return few;
}

/** Whether a segment is within bounds. A short chunk costs the flops of a whole one: less than that is not to be had. */
function fitting({ areas, readback, flopsPerToken, lift }: Layout, bounds: Bounds) {
  return (segment: Segment): boolean => {
    const { chunks } = segment;
    if (chunks > 1 && chunks * T * lift * flopsPerToken > bounds.flops) return false;
    let total = 0;
    for (const [i, area] of areas.entries()) {
      const bytes = areaBytes(area, segment);
      if (bytes > bounds.areaBytes) return false;
      total += (i === readback ? READBACKS : 1) * bytes;
    }
    return total <= bounds.totalBytes;
  };
}

function combine(a: Segment, b: Segment, by: (a: number, b: number) => number): Segment {
  const both = { ...a };
  for (const key of Object.keys(a) as (keyof Segment)[]) both[key] = by(a[key], b[key]);
  return both;
}

function sizeOf(
  lift: number,
  { row, start, end }: Part,
  timeline: Timeline,
  chunks = countChunks(lift, timeline, row, start, end),
): Segment {
  const outputs = timeline.outputs(row, end) - timeline.outputs(row, start);
  return { rows: 1, chunks, tokens: end - start, outputs, thinned: timeline.every > 1 ? outputs : 0 };
}

function countChunks(lift: number, timeline: Timeline, row: number, start: number, end: number): number {
  if (timeline.resets(row).length === 0) return Math.ceil((end - start) / T / lift);
  let count = 0;
  for (const _chunk of chunksOf(lift, timeline.resets(row), start, end)) count++;
  return count;
}

/** The chunks of tokens [start, end): each has T of them (lifted: T times as many), or ends at a reset or the end. */
function* chunksOf(
  lift: number,
  resets: Int32Array,
  start: number,
  end: number,
): Generator<{ start: number; end: number; isReset: boolean }> {
  let next = lastAt(resets, start - 1) + 1;
  for (let at = start; at < end; ) {
    const isReset = resets[next] === at;
    if (isReset) next++;
    const to = Math.min(at + T * lift, resets[next] ?? end, end);
    yield { start: at, end: to, isReset };
    at = to;
  }
}

/** How far a piece reaches that starts at `start`: in whole chunks, if one fits, and by one token (lifted: by one group of them) at least. */
function furthest(
  lift: number,
  row: number,
  start: number,
  length: number,
  timeline: Timeline,
  fits: (segment: Segment) => boolean,
): number {
  const size = T * lift;
  // Without resets every chunk is like the others, and there may be millions.
  if (timeline.resets(row).length === 0) {
    const endOf = (chunks: number) => Math.min(start + chunks * size, length);
    const chunks = most(Math.ceil((length - start) / size), (count) =>
      fits(sizeOf(lift, { row, start, end: endOf(count) }, timeline, count)),
    );
    if (chunks > 0) return endOf(chunks);
  }
  let chunks = 0;
  let reached = start;
  for (const chunk of chunksOf(lift, timeline.resets(row), start, length)) {
    if (!fits(sizeOf(lift, { row, start, end: chunk.end }, timeline, ++chunks))) {
      if (reached > start) return reached;
      reached = chunk.end;
      const few = () => sizeOf(lift, { row, start, end: reached }, timeline, 1);
      while (reached > start + lift && !fits(few())) reached -= lift;
      return reached;
    }
    reached = chunk.end;
  }
  return reached;
}

/** The bit of a count that says that the state is zero before it. */
export const FRESH = 2 ** 31;

/** What the kernels read of a piece's shape, uint32. */
export interface Tables {
  /** [chunks, 2]: first token, and tokens | FRESH; lifted in groups of tokens */
  readonly chunks: Uint32Array;
  /** [rows, 4]: first chunk and chunks; of the tokens from the last reset on, the first, and their number | FRESH */
  readonly rows: Uint32Array;
  /** [outputs, 2]: token, and T times its chunk and place in it. Without `every` the chunks. */
  readonly wanted: Uint32Array;
}

export function tablesOf(
  { parts, segment }: Pick<Piece, "parts" | "segment">,
  timeline: Timeline,
  lift = 1,
): Tables {
  const chunks = new Uint32Array(2 * segment.chunks);
  const rows = new Uint32Array(4 * parts.length);
  const wanted = timeline.every > 1 ? new Uint32Array(2 * segment.outputs) : chunks;
  let [tokens, chunk, output] = [0, 0, 0];
  for (const [i, { row, start, end }] of parts.entries()) {
    const resets = timeline.resets(row);
    const reset = resets[lastAt(resets, end - 1)] ?? -1;
    const from = Math.max(start, reset);
    rows[4 * i] = chunk;
    rows[4 * i + 2] = tokens + from - start;
    rows[4 * i + 3] = end - from + (reset >= start ? FRESH : 0);
    for (const { start: first, end: last, isReset } of chunksOf(lift, resets, start, end)) {
      chunks[2 * chunk] = tokens / lift;
      chunks[2 * chunk + 1] = (last - first) / lift + (isReset ? FRESH : 0);
      if (timeline.every > 1) {
        const skip = timeline.every - 1 - (timeline.count(row, first) % timeline.every);
        for (let k = skip; k < last - first; k += timeline.every) {
          wanted[output++] = tokens + k;
          wanted[output++] = chunk * T + k;
        }
      }
      tokens += last - first;
      chunk++;
    }
    rows[4 * i + 1] = chunk - (rows[4 * i] as number);
  }
  return { chunks, rows, wanted };
}

/** Rows as runs that ascend without a gap: where each begins among them, its first row, and how many. */
export function* runsOf(
  rows: ArrayLike<number>,
): Generator<readonly [at: number, row: number, count: number], void> {
  for (let at = 0, end = 0; at < rows.length; at = end) {
    const row = rows[at] as number;
    while (rows[end] === row + end - at) end++;
    yield [at, row, end - at];
  }
}
