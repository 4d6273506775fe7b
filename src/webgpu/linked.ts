/**
 * A network whose rate changes, on the GPU: a segment goes through all of its links in one submit. x goes up once, y and the
 * states come down once; what is between stays there, the tokens of a row behind those of the row before.
 */
import type { ForwardJob, Linked } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { Leg, Rows } from "../links.js";
import { inputWidth, type Network, outputWidth, type ShiftStage, type WindowStage } from "../program.js";
import { type Link, partsOfWindow, type Rates, ratesOf } from "../rates.js";
import { throwIfAborted } from "../signal.js";
import { carryOf, type State } from "../state.js";
import { Timeline } from "../timeline.js";
import { asGpuError, type Device } from "./device.js";
import { betweenOf, makeLinkedPlan, togetherOf } from "./passes.js";
import { piecesOf } from "./pieces.js";
import { type Pipelines, segmentOf, segmentWords, spread } from "./pipelines.js";
import type { Layout } from "./plan.js";
import { slowestMs } from "./runner.js";
import { collectPiece, resultsOf, tokensOf, uploadPiece } from "./transfer.js";
import {
  bindGroup,
  COPY_DST,
  COPY_SRC,
  type Kernel,
  type LoadedKernels,
  loadKernels,
  MAP_READ,
  mapForReading,
  mappedFloats,
  STORAGE,
  SUBMIT_DEADLINE_MS,
  UNIFORM,
  upload,
  Workspace,
} from "./workspace.js";

const none = new Float32Array(0);
const unbound = Number.POSITIVE_INFINITY;

/** A link with its weights on the GPU, and a part's memory there. */
interface Station {
  readonly link: Link;
  readonly loaded: LoadedKernels;
  readonly layout: Layout | undefined;
  workspace: Workspace | undefined;
}

/** Some floats of a buffer, from a byte on. */
type Read = readonly [buffer: GPUBuffer, from: number, floats: number];

/** What a link does with a segment. */
interface Hop {
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

/** Uploads a network and compiles its kernels. Rejects as `prepareRunner` does. */
export async function prepareLinked(
  device: Device,
  pipelines: Pipelines,
  network: Network,
  scratchBytes: number,
): Promise<Linked> {
  const load = async (timed: boolean): Promise<Station[]> => {
    const made = (ratesOf(network) as Rates).links.map(async (link): Promise<Station> => {
      if (link.kind === "part") {
        const { dispatches, ...layout } = makeLinkedPlan(link.program, timed);
        const loaded = await loadKernels(device, pipelines, dispatches);
        return { link, loaded, layout, workspace: undefined };
      }
      const loaded = await loadKernels(device, pipelines, betweenOf(link));
      return { link, loaded, layout: undefined, workspace: undefined };
    });
    try {
      return await Promise.all(made);
    } catch (error) {
      for (const station of made)
        station.then(
          ({ loaded }) => loaded.destroy(),
          () => {},
        );
      throw error;
    }
  };
  return new GpuLinked(device, network, scratchBytes, await load(false), () => load(true));
}

class GpuLinked implements Linked {
  readonly #device: Device;
  readonly #network: Network;
  readonly #scratchBytes: number;
  readonly #plain: readonly Station[];
  readonly #loadTimed: () => Promise<Station[]>;
  /** For tokens with timesteps: other weights, loaded when first wanted. */
  #timed: Promise<Station[]> | undefined;
  /** What is between the parts. */
  readonly #buffers = new Map<string, GPUBuffer>();
  #disposed = false;

  constructor(
    device: Device,
    network: Network,
    scratchBytes: number,
    plain: Station[],
    loadTimed: () => Promise<Station[]>,
  ) {
    this.#device = device;
    this.#network = network;
    this.#scratchBytes = scratchBytes;
    this.#plain = plain;
    this.#loadTimed = loadTimed;
  }

  segmentTokens(batch: number, timed: boolean): number {
    return this.#segment(batch, timed).tokens;
  }

  #segment(batch: number, timed: boolean): { rows: number; tokens: number } {
    return togetherOf(this.#network, timed, batch, this.#device, this.#scratchBytes);
  }

  run(...[rows, state, signal, links]: Parameters<Linked["run"]>): Promise<Rows> {
    return this.#device.enqueue(async () => {
      const { rows: most } = this.#segment(state.batch, rows.times !== undefined);
      let all: Rows | undefined;
      for (let first = 0; first < state.batch; first += most) {
        const mine = (count: number, row: number) => (row >= first && row < first + most ? count : 0);
        const group = { ...rows, counts: rows.counts.map(mine), totals: rows.totals?.map(mine) };
        const own = await this.#run(group, state, signal, links);
        all ??= own;
        const floats = own.data.length / state.batch;
        all.data.set(own.data.subarray(first * floats, (first + most) * floats), first * floats);
        all.counts.set(own.counts.subarray(first, first + most), first);
      }
      return all as Rows;
    });
  }

  async #run(...[rows, state, signal, { legsOf, hold }]: Parameters<Linked["run"]>): Promise<Rows> {
    const check = () => {
      throwIfAborted(signal);
      if (this.#disposed)
        throw new LinrecError("disposed", "The model was disposed of before this forward was done.");
    };
    const timed = rows.times !== undefined;
    const stations = timed ? await this.#timedStations() : this.#plain;
    check();
    const legs = legsOf(this.#network, rows, state, Float32Array);
    const last = legs.at(-1) as Leg;
    // A last y that is held is so on the host.
    const end = last.link.kind === "hold" ? last.x : last.y;
    const width = outputWidth(this.#network);
    const floats = sumOf(end.counts) * width;
    const device = this.#device;
    try {
      const hops = legs.map((leg, i) => this.#hop(leg, i, stations[i] as Station, state.batch));
      const x = packed(rows, inputWidth(this.#network));
      const bytes = hops.reduce((sum, hop) => sum + 4 * hop.floats, 4 * floats);
      const before = this.#grown;
      const { clean: hasRoom } = device.scoped("making room for a model's activations", () => {
        this.#take("x", 4 * x.length);
        this.#take("readback", bytes, COPY_DST | MAP_READ);
        for (const hop of hops) hop.room?.();
      });
      if (this.#grown > before) await device.wait(hasRoom, SUBMIT_DEADLINE_MS);
      check();

      const readback = this.#buffer("readback");
      const { value, clean } = device.scoped("running a model", () => {
        upload(device, this.#buffer("x"), 0, x);
        const encoder = device.handle.createCommandEncoder();
        const at = new Map([[0, this.#buffer("x")]]);
        const reads: Read[] = [];
        for (const [i, { link }] of legs.entries()) {
          const src = at.get(link.src) as GPUBuffer;
          const other = (link.kind === "add" ? at.get(link.other) : src) as GPUBuffer;
          const [y, ...own] = (hops[i] as Hop).encode(encoder, src, other);
          reads.push(...own);
          at.set(link.dst, y);
        }
        reads.push([at.get(this.#network.output) as GPUBuffer, 0, floats]);
        let to = 0;
        for (const [buffer, from, floats] of reads) {
          if (floats > 0) encoder.copyBufferToBuffer(buffer, from, readback, to, 4 * floats);
          to += 4 * floats;
        }
        device.handle.queue.submit([encoder.finish()]);
        return mapForReading(device, readback, bytes);
      });
      const slowest = hops.reduce((sum, { slowestMs = 0 }) => sum + slowestMs, SUBMIT_DEADLINE_MS);
      await device.wait(Promise.all([value, clean]), slowest);
      check(); // before anything is written: its owner may have gone on

      const values = mappedFloats(readback, bytes);
      let from = 0;
      for (const { floats, collect } of hops) {
        collect?.(values.subarray(from, from + floats));
        from += floats;
      }
      const data = unpacked(values.subarray(from), end, width);
      if (bytes > 0) readback.unmap();
      if (last.link.kind === "hold") hold(last.link, data.slice(), last, data);
      return { ...last.y, data };
    } catch (error) {
      this.#dropRoom(); // some of it may be mapped, or about to be
      throw asGpuError(error);
    }
  }

  #hop(leg: Leg, i: number, station: Station, batch: number): Hop {
    const { link } = leg;
    const tokens = sumOf(leg.x.counts);
    if (link.kind === "part") return tokens > 0 ? this.#partHop(leg, station, batch) : pass;
    if (link.kind === "window") return this.#windowHop(link, leg, i, station);
    if (tokens === 0) return pass;
    if (link.kind === "shift") return this.#shiftHop(link, leg, i);
    if (link.kind !== "add") return pass;
    const y = `y${i}`;
    return {
      room: () => this.#takeFor(i, 4 * tokens * link.width),
      floats: 0,
      encode: (encoder, a, b) => {
        const buffers = [this.#buffer(y), a, b];
        this.#dispatch(encoder, i, station.loaded.kernels[0] as Kernel, tokens, buffers);
        return [this.#buffer(y)];
      },
    };
  }

  #partHop({ x, state }: Leg, station: Station, batch: number): Hop {
    const layout = station.layout as Layout;
    const job: ForwardJob = {
      ...{ batch, seqLen: x.seqLen, lengths: x.counts, timesteps: x.times?.data, x: none, y: none, state },
      ...{ threads: 0, signal: undefined, onProgress: undefined },
    };
    const passage = { job, timeline: new Timeline(job), layout, inPlace: true };
    const bounds = { areaBytes: this.#device.maxBinding, totalBytes: unbound, flops: unbound };
    const [piece, more] = piecesOf(layout, job, passage.timeline, bounds);
    if (!piece || more)
      throw new LinrecError("unsupported", "This model is too wide for this GPU. Use another backend.");
    const { segment } = piece;
    const results = resultsOf(passage, piece);
    return {
      slowestMs: slowestMs(segment, layout),
      floats: results.reduce((sum, { floats }) => sum + floats, 0),
      collect: (values) => collectPiece(passage, piece, values),
      room: () => {
        if (station.workspace?.fits(layout, segment)) return;
        const previous = station.workspace;
        station.workspace = new Workspace(this.#device, layout, station.loaded.kernels, segment, previous);
        previous?.destroy();
        this.#grown++;
      },
      encode: (encoder, x) => {
        const workspace = station.workspace as Workspace;
        uploadPiece(this.#device, passage, workspace, piece);
        const bytes = 4 * segment.tokens * layout.inputWidth;
        encoder.copyBufferToBuffer(x, 0, workspace.area(layout.input), 0, bytes);
        workspace.encode(encoder, segment, true);
        const reads = results.map(({ area, floats }): Read => [workspace.area(area), 0, floats]);
        return [workspace.area(layout.output), ...reads];
      },
    };
  }

  /** The windows that end, and behind them what is held of those that do not. */
  #windowHop(stage: WindowStage, { x, windows, state }: Leg, i: number, { loaded }: Station): Hop {
    const { width } = stage;
    const parts = partsOfWindow(stage);
    const given: number[] = [];
    const open: number[] = [];
    const held: number[] = [];
    const opened: number[] = [];
    let from = 0;
    for (const [row, own] of windows.entries()) {
      for (const { first, tokens, joins, gives } of own) {
        if (joins) held.push(row);
        const isOpen = gives < 0;
        (isOpen ? open : given).push(from + first, tokens, joins ? held.length : 0, isOpen ? 1 : parts);
        if (isOpen) opened.push(row);
      }
      from += x.counts[row] as number;
    }
    const places = Uint32Array.from([...given, ...open]);
    const count = places.length / 4;
    if (count === 0) return pass;
    const begun = heldOf(state, held, width);
    return {
      floats: opened.length * width,
      collect: (values) => holdAgain(state, opened, width, values),
      room: () => this.#takeFor(i, 4 * count * width, 4 * begun.length, 4 * places.length),
      encode: (encoder, x) => {
        const [y, held, table] = [this.#buffer(`y${i}`), this.#buffer(`held${i}`), this.#buffer(`table${i}`)];
        upload(this.#device, held, 0, begun);
        upload(this.#device, table, 0, places);
        this.#dispatch(encoder, i, loaded.kernels[0] as Kernel, count, [y, x, held, table]);
        return [y, [y, given.length * width, opened.length * width]];
      },
    };
  }

  #shiftHop({ width }: ShiftStage, { x: { counts }, state }: Leg, i: number): Hop {
    const rows = Array.from(counts.keys()).filter((row) => counts[row]);
    const last = heldOf(state, rows, width);
    return {
      floats: last.length,
      collect: (values) => holdAgain(state, rows, width, values),
      room: () => this.#takeFor(i, 4 * sumOf(counts) * width, 4 * last.length),
      encode: (encoder, x) => {
        const [y, held] = [this.#buffer(`y${i}`), this.#buffer(`held${i}`)];
        upload(this.#device, held, 0, last);
        const token = 4 * width;
        const reads: Read[] = [];
        let from = 0;
        for (const [n, row] of rows.entries()) {
          const bytes = token * ((counts[row] as number) - 1);
          encoder.copyBufferToBuffer(held, n * token, y, from, token);
          if (bytes > 0) encoder.copyBufferToBuffer(x, from, y, from + token, bytes);
          reads.push([x, from + bytes, width]);
          from += bytes + token;
        }
        return [y, ...reads];
      },
    };
  }

  #dispatch(
    encoder: GPUCommandEncoder,
    i: number,
    { pipeline, sizes, workgroups }: Kernel,
    tokens: number,
    buffers: readonly GPUBuffer[],
  ): void {
    const on = segmentOf(1, tokens);
    const segment = this.#buffer(`segment${i}`);
    upload(this.#device, segment, 0, segmentWords(on, false));
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup(this.#device, pipeline, [segment, sizes, ...buffers]));
    pass.dispatchWorkgroups(...spread(workgroups(on)));
    pass.end();
  }

  #grown = 0;

  /** Room for what link `i` makes, what it holds from before, and its tables. */
  #takeFor(i: number, y: number, held = 0, table = 0): void {
    for (const [name, bytes] of Object.entries({ y, held, table, segment: 16 })) this.#take(name + i, bytes);
  }

  #take(name: string, bytes: number, usage = STORAGE | UNIFORM | COPY_SRC | COPY_DST): void {
    const known = this.#buffers.get(name);
    if (known && known.size >= bytes) return;
    known?.destroy();
    const size = Math.min(2 ** Math.ceil(Math.log2(Math.max(16, bytes))), this.#device.maxBinding);
    this.#buffers.set(name, this.#device.handle.createBuffer({ label: name, size, usage }));
    this.#grown++;
  }

  #buffer(name: string): GPUBuffer {
    return this.#buffers.get(name) as GPUBuffer;
  }

  async #timedStations(): Promise<Station[]> {
    this.#timed ??= this.#loadTimed();
    try {
      return await this.#timed;
    } catch (error) {
      this.#timed = undefined;
      throw error;
    }
  }

  #dropRoom(): void {
    for (const buffer of this.#buffers.values()) buffer.destroy();
    this.#buffers.clear();
    const drop = (stations: readonly Station[]) => {
      for (const station of stations) {
        station.workspace?.destroy();
        station.workspace = undefined;
      }
    };
    drop(this.#plain);
    this.#timed?.then(drop, () => {});
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#dropRoom();
    const unload = (stations: readonly Station[]) => {
      for (const { loaded } of stations) loaded.destroy();
    };
    unload(this.#plain);
    this.#timed?.then(unload, () => {});
  }
}

const sumOf = (counts: Int32Array): number => counts.reduce((sum, count) => sum + count, 0);

/** What a link holds of some rows, one behind the other. */
function heldOf(state: State, rows: readonly number[], width: number): Float32Array {
  const values = new Float32Array(rows.length * width);
  for (const [n, row] of rows.entries()) values.set(carryOf(state, row).subarray(0, width), n * width);
  return values;
}

/** The other way. */
function holdAgain(state: State, rows: readonly number[], width: number, values: Float32Array): void {
  for (const [n, row] of rows.entries()) carryOf(state, row).set(values.subarray(n * width, (n + 1) * width));
}

/** Only the values that are there, one row after the other. */
function packed({ data, seqLen, counts }: Rows, width: number): Float32Array {
  const tokens = sumOf(counts);
  const parts = Array.from(counts, (end, row) => ({ row, start: 0, end })).filter(({ end }) => end > 0);
  return tokens > 0 ? tokensOf(parts, tokens, seqLen, data, width) : none;
}

/** The other way: a copy. */
function unpacked(
  values: Float32Array,
  { seqLen, counts }: Omit<Rows, "data">,
  width: number,
): Float32Array<ArrayBuffer> {
  const data = new Float32Array(counts.length * seqLen * width);
  let from = 0;
  for (const [row, count] of counts.entries()) {
    data.set(values.subarray(from, from + count * width), row * seqLen * width);
    from += count * width;
  }
  return data;
}
