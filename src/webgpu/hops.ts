/**
 * What each link of a network whose rate changes does with a segment on the GPU, the tokens of a row behind those of the row
 * before. What it carries on is there, too, row by row: in the buffers `held`, from where it starts and where it leaves it.
 */
import type { ForwardJob } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { Leg } from "../networks/links.js";
import type { ShiftStage, WindowStage } from "../program.js";
import { partsOfWindow } from "../rates.js";
import { carryOf, type State, type StateSlot } from "../state.js";
import { Timeline } from "../timeline.js";
import type { Device } from "./device.js";
import { piecesOf, runsOf } from "./pieces.js";
import { segmentOf, segmentWords, spread } from "./pipelines.js";
import type { Layout, StateArea } from "./plan.js";
import { slowestMs } from "./runner.js";
import type { Buffers, Station } from "./stations.js";
import { collectPiece, resultsOf, statesOf, uploadPiece } from "./transfer.js";
import { bindGroup, type Kernel, upload, Workspace } from "./workspace.js";

const none = new Float32Array(0);
const unbound = Number.POSITIVE_INFINITY;

/** Some floats of a buffer, from a byte on. */
export type Read = readonly [buffer: GPUBuffer, from: number, floats: number];

/** What a link does with a segment. */
export interface Hop {
  /** Makes room, before anything is encoded. */
  room?(): void;
  /** Gives y, and what the CPU is to read of it. */
  encode(encoder: GPUCommandEncoder, x: GPUBuffer, other: GPUBuffer): readonly [GPUBuffer, ...Read[]];
  /** How many floats that is, and what becomes of them. */
  readonly floats: number;
  collect?(values: Float32Array): void;
  /** The longest that it may take beyond the least deadline. */
  readonly slowestMs?: number;
}

const pass: Hop = { encode: (_, x) => [x], floats: 0 };

/** A link, and where it is. */
interface Stop {
  readonly device: Device;
  readonly buffers: Buffers;
  readonly station: Station;
  /** Its state is past what has been submitted: what it counts is, and what it holds is not. */
  readonly leg: Leg;
  readonly i: number;
  /** The row of the state that is the first of `held`. */
  readonly first: number;
  /** What it has carried past what has landed. */
  readonly landed: State;
}

export const heldName = (i: number, j = 0): string => `held${i}.${j}`;

/** What a link has carried of some rows, as it is in its buffers `held`: [rows, floats] each. */
export function heldOf({ link, layout }: Station, state: State, rows: readonly number[]): Float32Array[] {
  if (layout) return statesOf(state, rows);
  if (link.kind !== "window" && link.kind !== "shift") return [];
  const values = new Float32Array(rows.length * link.width);
  for (const [n, row] of rows.entries())
    values.set(carryOf(state, row).subarray(0, link.width), n * link.width);
  return [values];
}

/** Advances what the leg's state counts. */
export function hopOf(stop: Stop): Hop {
  const { leg, i, station, buffers } = stop;
  const { link } = leg;
  const tokens = sumOf(leg.x.counts);
  if (link.kind === "window") return windowHop(link, stop);
  if (tokens === 0) return pass;
  if (link.kind === "part") return partHop(station.layout as Layout, stop);
  if (link.kind === "shift") return shiftHop(link, stop);
  if (link.kind !== "add") return pass;
  const y = `y${i}`;
  return {
    room: () => takeFor(stop, 4 * tokens * link.width),
    floats: 0,
    encode: (encoder, a, b) => {
      dispatch(encoder, stop, tokens, [buffers.get(y), a, b]);
      return [buffers.get(y)];
    },
  };
}

function partHop(layout: Layout, { device, buffers, station, leg, i, first, landed }: Stop): Hop {
  const { x, state } = leg;
  const job: ForwardJob = {
    ...{ batch: state.batch, seqLen: x.seqLen, lengths: x.counts, timesteps: x.times?.data },
    ...{ x: none, y: none, state: landed, threads: 0, signal: undefined, onProgress: undefined },
  };
  const timeline = new Timeline({ ...job, state });
  const passage = { job, timeline, layout, inPlace: true };
  const bounds = { areaBytes: device.maxBinding, totalBytes: unbound, flops: unbound };
  const [piece, more] = piecesOf(layout, job, timeline, bounds);
  if (!piece || more)
    throw new LinrecError("unsupported", "This model is too wide for this GPU. Use another backend.");
  const { segment, parts } = piece;
  for (const { row, end } of parts) state.restartRow(row, timeline.count(row, end));
  const results = resultsOf(passage, piece);
  const rows = parts.map(({ row }) => row - first);
  return {
    slowestMs: slowestMs(segment, layout),
    floats: results.reduce((sum, { floats }) => sum + floats, 0),
    collect: (values) => collectPiece(passage, piece, values),
    room: () => {
      if (station.workspace?.fits(layout, segment)) return;
      const previous = station.workspace;
      station.workspace = new Workspace(device, layout, station.loaded.kernels, segment, previous);
      previous?.destroy();
      buffers.made++;
    },
    encode: (encoder, x) => {
      const workspace = station.workspace as Workspace;
      uploadPiece(device, passage, workspace, piece);
      const bytes = 4 * segment.tokens * layout.inputWidth;
      encoder.copyBufferToBuffer(x, 0, workspace.area(layout.input), 0, bytes);
      const states = layout.states.map(({ area, floats }: StateArea, j) => {
        return [workspace.area(area), buffers.get(heldName(i, j)), 4 * floats] as const;
      });
      for (const [area, held, bytes] of states) {
        for (const [at, row, count] of runsOf(rows))
          encoder.copyBufferToBuffer(held, row * bytes, area, at * bytes, count * bytes);
      }
      workspace.encode(encoder, segment, true);
      for (const [area, held, bytes] of states) keep(encoder, rows, area, 0, held, bytes);
      const reads = results.map(({ area, floats }): Read => [workspace.area(area), 0, floats]);
      return [workspace.area(layout.output), ...reads];
    },
  };
}

/** The windows that end, and behind them what is held of those that do not. */
function windowHop(stage: WindowStage, stop: Stop): Hop {
  const { device, buffers, leg, i, first, landed } = stop;
  const { x, windows, state } = leg;
  const { width } = stage;
  const parts = partsOfWindow(stage);
  const slot = state.layout.slots[0] as StateSlot;
  // Those of this segment: the state may be past the next when it lands.
  const counts = state.count.slice();
  const apart = Array.from(counts, (_, row) => state.poolLoc(slot, row)[0] as number);
  const advance = () => {
    for (const [row, count] of counts.entries()) {
      landed.restartRow(row, count);
      landed.poolLoc(slot, row)[0] = apart[row] as number;
    }
  };
  const given: number[] = [];
  const open: number[] = [];
  const opened: number[] = [];
  let from = 0;
  for (const [row, own] of windows.entries()) {
    for (const { first: start, tokens, joins, gives } of own) {
      const isOpen = gives < 0;
      const held = joins ? row - first + 1 : 0;
      (isOpen ? open : given).push(from + start, tokens, held, isOpen ? 1 : parts);
      if (isOpen) opened.push(row);
    }
    from += x.counts[row] as number;
  }
  const places = Uint32Array.from([...given, ...open]);
  const count = places.length / 4;
  if (count === 0) return { ...pass, collect: advance };
  const gives = given.length / 4;
  return {
    floats: opened.length * width,
    collect: (values) => {
      advance();
      holdAgain(landed, opened, width, values);
    },
    room: () => takeFor(stop, 4 * count * width, 4 * places.length),
    encode: (encoder, x) => {
      const y = buffers.get(`y${i}`);
      const held = buffers.get(heldName(i));
      const table = buffers.get(`table${i}`);
      upload(device, table, 0, places);
      dispatch(encoder, stop, count, [y, x, held, table]);
      const rows = opened.map((row) => row - first);
      keep(encoder, rows, y, 4 * gives * width, held, 4 * width);
      return [y, [y, 4 * gives * width, opened.length * width]];
    },
  };
}

function shiftHop({ width }: ShiftStage, stop: Stop): Hop {
  const { buffers, leg, i, first, landed } = stop;
  const { counts } = leg.x;
  const rows = Array.from(counts.keys()).filter((row) => counts[row]);
  return {
    floats: rows.length * width,
    collect: (values) => holdAgain(landed, rows, width, values),
    room: () => takeFor(stop, 4 * sumOf(counts) * width),
    encode: (encoder, x) => {
      const y = buffers.get(`y${i}`);
      const held = buffers.get(heldName(i));
      const token = 4 * width;
      const reads: Read[] = [];
      let from = 0;
      for (const row of rows) {
        const bytes = token * ((counts[row] as number) - 1);
        encoder.copyBufferToBuffer(held, (row - first) * token, y, from, token);
        if (bytes > 0) encoder.copyBufferToBuffer(x, from, y, from + token, bytes);
        encoder.copyBufferToBuffer(x, from + bytes, held, (row - first) * token, token);
        reads.push([x, from + bytes, width]);
        from += bytes + token;
      }
      return [y, ...reads];
    },
  };
}

function dispatch(
  encoder: GPUCommandEncoder,
  { device, buffers, station, i }: Stop,
  tokens: number,
  bound: readonly GPUBuffer[],
): void {
  const { pipeline, sizes, workgroups } = station.loaded.kernels[0] as Kernel;
  const on = segmentOf(1, tokens);
  const segment = buffers.get(`segment${i}`);
  upload(device, segment, 0, segmentWords(on, false));
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindGroup(device, pipeline, [segment, sizes, ...bound]));
  pass.dispatchWorkgroups(...spread(workgroups(on)));
  pass.end();
}

/** Room for what a link makes, and its tables. */
function takeFor({ buffers, i }: Stop, y: number, table = 0): void {
  for (const [name, bytes] of Object.entries({ y, table, segment: 16 })) buffers.take(name + i, bytes);
}

/** Leaves what rows, one behind the other, have carried to their places in `held`: so many bytes of each. */
function keep(
  encoder: GPUCommandEncoder,
  rows: readonly number[],
  buffer: GPUBuffer,
  from: number,
  held: GPUBuffer,
  bytes: number,
): void {
  for (const [at, row, count] of runsOf(rows))
    encoder.copyBufferToBuffer(buffer, from + at * bytes, held, row * bytes, count * bytes);
}

export const sumOf = (counts: Int32Array): number => counts.reduce((sum, count) => sum + count, 0);

/** The other way of {@link heldOf}, for a link that is no part. */
function holdAgain(state: State, rows: readonly number[], width: number, values: Float32Array): void {
  for (const [n, row] of rows.entries()) carryOf(state, row).set(values.subarray(n * width, (n + 1) * width));
}
