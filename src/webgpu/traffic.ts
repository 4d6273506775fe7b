/**
 * What a plan's kernels touch of GPU memory, counted from the shapes alone: dispatches, bytes, and loads. One entry per
 * kernel, beside no formula of the whole: test/webgpu-traffic.node.test.ts counts the accesses of the running shaders themselves.
 *
 * An LRU layer that is not thinned takes, for each segment,
 * - per token 12H + 16N bytes: u twice and y once (4H each), loc written and read (8N each),
 * - per chunk 32N + 24: its final written, read and made its carry, which is read (8N each), and three reads of its place,
 * - per row 24N + 16: the state read and written, one token of loc (8N each), and the row's entry,
 * and its weights, which stay in the caches. Lifted, a token takes 12H + 16N/P, and a chunk 8N less: its last loc is in its final. Where each row is one chunk there is no carry scan, and per chunk 32N + 16 is all;
 * of a narrow layer a token then takes 8H, u and y, and a row 16N + 8: its state read and written, and its place.
 */
import type { Dispatch } from "./dispatches.js";
import { scheduled } from "./dispatches.js";
import { parametersOf } from "./epilogue.js";
import { GROUP, type KernelName, type Segment, tileOf } from "./pipelines.js";
import type { Plan } from "./plan.js";
import { plainTiles, T, type Tile, type Tiles } from "./tiles.js";

/** What one dispatch does with one of its arrays, in bytes. */
export interface Touch {
  /** Distinct bytes read: what crosses the memory bus where the caches keep what is read again. At most, of a weight. */
  readonly read: number;
  /** Bytes written, each once. */
  readonly written: number;
  /** Bytes of all loads: what the caches are asked for. */
  readonly loads: number;
}

export interface Traffic extends Touch {
  readonly dispatches: number;
  /** In the order they run, with their arrays in binding order. */
  readonly kernels: readonly { readonly kernel: KernelName; readonly touches: readonly Touch[] }[];
  /** Buffer copies between dispatches, in `read` and `written` too. */
  readonly copies: number;
}

/**
 * @param segment a segment of a forward, its `thinned` set where not every token gives an output
 * @param isLast whether its rows end with it
 */
export function trafficOf(
  { dispatches, lift = 1 }: Pick<Plan, "dispatches"> & { readonly lift?: number },
  segment: Segment,
  isLast = true,
  tiles: Tiles = plainTiles,
): Traffic {
  const total = { read: 0, written: 0, loads: 0, copies: 0 };
  const kernels = [];
  for (const { dispatch, on } of scheduled(dispatches, segment, isLast, segment.thinned > 0)) {
    const tokens = lifted.has(dispatch.kernel) ? on.tokens / lift : on.tokens;
    const own = touchesOf(dispatch, { ...on, tokens }, tileOf(tiles, dispatch.kernel));
    const touches = withEpilogue(dispatch, own);
    for (const { read, written, loads } of touches) {
      total.read += read;
      total.written += written;
      total.loads += loads;
    }
    if (dispatch.into) {
      total.copies++;
      total.read += dispatch.into.bytes * on.tokens;
      total.written += dispatch.into.bytes * on.tokens;
    }
    kernels.push({ kernel: dispatch.kernel, touches });
  }
  return { ...total, dispatches: kernels.length, kernels };
}

/** An epilogue's arrays are as large as y, and read, or written where the plan keeps them; its parameters follow a weight's. */
function withEpilogue({ kernel, arrays, epilogue = [] }: Dispatch, own: readonly Touch[]): Touch[] {
  const y = own[0]?.written ?? 0;
  const text = epilogue.join();
  const count = (what: RegExp) => text.match(what)?.length ?? 0;
  const [loads, again] = [count(/parameter\(/g), count(/u\[i\]/g)];
  const at = parametersOf(kernel);
  return arrays.map((array, n) => {
    const known = own[n];
    if (!known) return text.includes(`kept(${n - own.length})`) ? store(1, y) : touch(1, y);
    if (again && n === LIFTED_U) return touch(1, known.read, known.loads + again * y);
    return loads && n === at ? touch(1, (array as Float32Array).byteLength, known.loads + loads * y) : known;
  });
}

/** Where u is among the arrays of `liftedOutput`. */
const LIFTED_U = 6;

/** Their tokens are groups of as many as the plan lifts. */
const lifted = new Set<KernelName>(["projectScan", "liftedOutput"]);

/** Elements of `bytes` each: distinct ones that are read, all loads, and those that are written. */
const touch = (bytes: number, read: number, loads = read, written = 0): Touch => ({
  read: bytes * read,
  loads: bytes * loads,
  written: bytes * written,
});
const store = (bytes: number, written: number): Touch => touch(bytes, 0, 0, written);

/** Columns of the last workgroup that do not exist are computed too. */
const padded = (width: number, group: number): number => Math.ceil(width / group) * group;

function touchesOf(
  { kernel, sizes }: Dispatch,
  { rows, chunks, tokens, thinned }: Segment,
  tile: Tile,
): Touch[] {
  const [width, other] = sizes as [number, number];
  const values = tokens * width;
  const columns = [touch(4, width, values)];
  const breadth = tile.lanes * tile.cols;
  const parts = T / tile.rows;
  switch (kernel) {
    case "projectScan": {
      const [dModel, dState] = [width, other];
      const lanes = padded(dState, breadth);
      const height = padded(chunks, tile.chunks);
      const single = sizes[2] && chunks === rows;
      const staged = (height * T * dModel * lanes) / breadth;
      return [
        store(8, tokens * dState),
        store(8, chunks * dState),
        single ? touch(8, rows * dState, rows * dState, rows * dState) : touch(8, 0),
        // A workgroup stages u whole: a short chunk repeats its last token.
        touch(4, tokens * dModel, staged),
        // Each thread reads its columns of B_norm once: a load feeds as many timesteps as the thread has.
        touch(8, dModel * dState, height * parts * dModel * lanes),
        touch(8, (single ? T : 1) * dState, height * parts * lanes + (single ? chunks * dState : 0)),
        touch(8, chunks, staged / 4 + (chunks * parts * lanes) / tile.cols),
      ];
    }
    case "carryScan": {
      const lanes = padded(width, 4);
      const states = rows * width;
      return [
        touch(8, chunks * width, 2 * chunks * lanes, chunks * width),
        touch(8, states, 64 * rows * lanes, states),
        touch(8, states),
        touch(8, T * width, states),
        touch(8, (GROUP + 8) * width, (256 * rows + chunks) * lanes),
        touch(16, rows, 128 * rows * lanes),
        touch(8, chunks, 2 * chunks * lanes + states),
      ];
    }
    case "timedScan":
      return [
        touch(8, values, values, values),
        store(8, chunks * width),
        touch(8, rows * width, rows * width, rows * width),
        touch(8, values),
        touch(4, tokens, values),
        touch(16, rows, (3 * rows + 2 * chunks) * width),
        touch(8, chunks, (3 * chunks + tokens) * width),
      ];
    case "slotScan": {
      const states = rows * width;
      return [
        touch(8, values, values, values),
        touch(8, states, states, states),
        touch(8, width, values),
        touch(4, tokens, values),
        touch(8, tokens, states + values),
      ];
    }
    case "slotPool": {
      const own = rows * width;
      const isLast = other === 1;
      const sum = isLast ? touch(8, 1, own) : touch(8, own, own, own);
      return [store(4, values), sum, touch(4, values), touch(8, tokens, own + values)];
    }
    case "skip":
      return [touch(4, values, values, values), ...columns, touch(4, values)];
    case "liftedOutput": {
      const [dModel, dState] = [width, other];
      const lanes = padded(dModel, breadth);
      const height = padded(chunks, tile.chunks);
      const staged = (height * T * dState * lanes) / breadth;
      const block = sizes[2] as number;
      // Columns of u that come before those of y: the others are zero in D.
      let depth = 0;
      for (let end = breadth; end <= lanes; end += breadth)
        depth += Math.min(dModel, padded(Math.min(end, dModel), block));
      // The first of a chunk's T needs the carry alone.
      const later = (staged * (T - 1)) / T;
      return [
        store(4, values),
        touch(8, (tokens - chunks) * dState, later),
        touch(8, chunks * dState, staged / 4),
        touch(8, (T - 1) * dState, later),
        touch(8, dModel * dState, height * parts * dState * lanes),
        touch(4, dModel ** 2, depth * breadth * height * parts),
        touch(4, values, depth * height * T),
        touch(8, chunks, staged / 2 + (depth * height * T) / 4 + (2 * chunks * parts * lanes) / tile.cols),
      ];
    }
    case "output": {
      const [dModel, dState] = [width, other];
      const lanes = padded(dModel, breadth);
      const height = padded(chunks, tile.chunks);
      const staged = (height * T * dState * lanes) / breadth;
      return [
        store(4, values),
        touch(8, tokens * dState, staged),
        // Four timesteps of a chunk share it; tokens that are thinned come each from another chunk, at most.
        thinned ? touch(8, tokens * dState, staged) : touch(8, chunks * dState, staged / 4),
        touch(8, T * dState, staged),
        touch(8, dModel * dState, height * parts * dState * lanes),
        touch(4, dModel, chunks * parts * dModel),
        touch(4, values),
        thinned
          ? touch(8, tokens, staged + values)
          : touch(8, chunks, staged / 2 + (2 * chunks * parts * lanes) / tile.cols),
      ];
    }
    case "oneChunk": {
      const [dModel, dState] = [width, other];
      const lanes = padded(dState, breadth);
      return [
        store(4, values),
        touch(8, rows * dState, rows * parts * dState, rows * dState),
        // Staged whole for each LANES states, a short chunk's last token again and again; and once for D * u.
        touch(4, values, (rows * T * dModel * lanes) / breadth + values),
        touch(8, dModel * dState, rows * parts * dModel * lanes),
        touch(8, T * dState, rows * parts * lanes + tokens * dState),
        touch(8, dModel * dState, rows * parts * dState * breadth),
        touch(4, dModel, rows * parts * dModel),
        touch(8, rows, rows * parts * tile.lanes),
      ];
    }
    case "dense": {
      const lanes = padded(other, breadth);
      const tiles = padded(Math.ceil(tokens / T), tile.chunks);
      return [
        store(4, tokens * other),
        touch(4, values, (tiles * T * width * lanes) / breadth),
        touch(4, width * other, tiles * parts * width * lanes),
        touch(4, other, tiles * parts * other),
      ];
    }
    case "pool": {
      const isLast = other === 1;
      const own = rows * width;
      const seen = isLast ? own : values;
      return [
        store(4, own),
        touch(4, isLast ? 0 : own, isLast ? 0 : own, own),
        touch(4, seen, (seen / width) * padded(width, 16)),
        touch(16, rows, 32 * rows * padded(width, 16) + (isLast ? 0 : own)),
        touch(4, rows, own),
      ];
    }
    case "layerNorm":
      return [store(4, values), touch(4, values, (sizes[2] ? 3 : 2) * values), ...columns, ...columns];
    case "logSoftmax":
      return [store(4, values), touch(4, values, 3 * values)];
    case "batchNorm":
      return [store(4, values), touch(4, values), ...columns, ...columns, ...columns];
    case "window": {
      const factor = sizes[2] as number;
      // Whole ones: of one that is begun or left open, what is held stands for its other tokens.
      return [store(4, values), touch(4, factor * values), touch(4, 0), touch(16, tokens, values)];
    }
    case "embedding":
      return [store(4, values), touch(4, tokens, values), touch(4, Math.min(values, width * other), values)];
    case "copyRows":
      return [store(4, values), touch(4, values), touch(8, tokens, values)];
    case "gelu":
      return [store(4, values), touch(4, values)];
    case "glu":
    case "add":
      return [store(4, values), touch(4, values), touch(4, values)];
  }
}
