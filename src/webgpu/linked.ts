/**
 * A network whose rate changes, on the GPU: a segment goes through all of its links in one submit. x goes up once, y and the
 * states come down once; what is between stays there, and so does what is carried on. While a segment is computed the next one
 * is uploaded and waits behind it, and what the one before it gave is read.
 */
import type { Linked } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { Leg, Rows } from "../networks/links.js";
import { inputWidth, type Network, outputWidth } from "../program.js";
import { type StopSignal, throwIfAborted } from "../runtime/signal.js";
import type { State } from "../state.js";
import { asGpuError, type Device } from "./device.js";
import { type Hop, heldName, heldOf, hopOf, type Read, sumOf } from "./hops.js";
import { togetherOf } from "./passes.js";
import type { Pipelines } from "./pipelines.js";
import { READBACKS } from "./plan.js";
import { Buffers, loadStations, type Station } from "./stations.js";
import { tokensOf } from "./transfer.js";
import { COPY_DST, MAP_READ, mapForReading, mappedFloats, SUBMIT_DEADLINE_MS, upload } from "./workspace.js";

const none = new Float32Array(0);

type Links = Parameters<Linked["run"]>[4];

/** Uploads a network and compiles its kernels. Rejects as `prepareRunner` does. */
export async function prepareLinked(
  device: Device,
  pipelines: Pipelines,
  network: Network,
  scratchBytes: number,
): Promise<Linked> {
  const load = (timed: boolean) => loadStations(device, pipelines, network, timed);
  return new GpuLinked(device, network, scratchBytes, await load(false), () => load(true));
}

/** A run on its way. */
interface Course {
  /** Past what has landed. */
  readonly state: State;
  /** Past what has been submitted, in what it counts: what it holds is on the GPU. */
  readonly ahead: State;
  readonly links: Links;
  submits: number;
  /** The first of the rows that are held on the GPU; -1 for none. */
  held: number;
  check(): void;
}

/** A segment of some rows on its way through the GPU. */
interface Submitted {
  readonly done: Promise<unknown>;
  readonly deadlineMs: number;
  /** Once it is done: advances the state, and gives what comes of the rows. */
  collect(): Rows;
}

class GpuLinked implements Linked {
  readonly #device: Device;
  readonly #network: Network;
  readonly #scratchBytes: number;
  readonly #plain: readonly Station[];
  readonly #loadTimed: () => Promise<Station[]>;
  /** For tokens with timesteps: other weights, loaded when first wanted. */
  #timed: Promise<Station[]> | undefined;
  /** What is between the parts, and what links hold. */
  readonly #buffers: Buffers;
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
    this.#buffers = new Buffers(device);
  }

  segmentTokens(batch: number, timed: boolean): number {
    return this.#segment(batch, timed).tokens;
  }

  #segment(batch: number, timed: boolean): { rows: number; tokens: number } {
    return togetherOf(this.#network, timed, batch, this.#device, this.#scratchBytes);
  }

  run<Segment extends Rows>(
    segments: Iterable<Segment>,
    state: State,
    signal: StopSignal | undefined,
    land: (segment: Segment, end: Rows) => void,
    links: Links,
  ): Promise<void> {
    const check = () => {
      throwIfAborted(signal);
      if (this.#disposed)
        throw new LinrecError("disposed", "The model was disposed of before this forward was done.");
    };
    return this.#device.enqueue(async () => {
      const { batch } = state;
      const course: Course = { state, ahead: state.clone(), links, submits: 0, held: -1, check };
      const submitted: [Submitted, (own: Rows) => void][] = [];
      const landOldest = async () => {
        const [{ done, deadlineMs, collect }, landed] = submitted.shift() as (typeof submitted)[number];
        await this.#device.wait(done, deadlineMs);
        check(); // before anything is written: its owner may have gone on
        landed(collect());
      };
      try {
        // Once for all: what is on its way is of these groups of rows, and the GPU's rates may become other ones meanwhile.
        let most = 0;
        for (const segment of segments) {
          most ||= this.#segment(batch, segment.times !== undefined).rows;
          let all: Rows | undefined;
          for (let first = 0; first < batch; first += most) {
            const mine = (count: number, row: number) => (row >= first && row < first + most ? count : 0);
            const rows = { ...segment, counts: segment.counts.map(mine), totals: segment.totals?.map(mine) };
            if (submitted.length === READBACKS) await landOldest();
            check();
            const own = await this.#submit(course, rows, first, Math.min(most, batch - first));
            const landed = (end: Rows) => {
              all ??= end;
              const floats = end.data.length / batch;
              all.data.set(end.data.subarray(first * floats, (first + most) * floats), first * floats);
              all.counts.set(end.counts.subarray(first, first + most), first);
              if (first + most >= batch) land(segment, all);
            };
            submitted.push([own, landed]);
          }
        }
        while (submitted.length > 0) await landOldest();
      } catch (error) {
        this.#dropRoom(); // some of it may be mapped, or about to be
        if (this.#disposed) check();
        throw asGpuError(error);
      }
    });
  }

  /** Uploads a segment of `count` rows, has it run, and what comes of it mapped. */
  async #submit(course: Course, rows: Rows, first: number, count: number): Promise<Submitted> {
    const { state, ahead, check } = course;
    const { legsOf, hold } = course.links;
    const stations = rows.times === undefined ? this.#plain : await this.#timedStations();
    check();
    const legs = legsOf(this.#network, rows, ahead, Float32Array);
    const last = legs.at(-1) as Leg;
    // A last y that is held is so on the host.
    const end = last.link.kind === "hold" ? last.x : last.y;
    const width = outputWidth(this.#network);
    const floats = sumOf(end.counts) * width;
    const device = this.#device;
    const buffers = this.#buffers;
    const landed = (i: number) => state.parts[i] as State;
    const hops = legs.map((leg, i) => {
      const station = stations[i] as Station;
      return hopOf({ device, buffers, station, leg, i, first, landed: landed(i) });
    });
    // What other rows hold takes their place: nothing of these is under way, for others were submitted since.
    const own = Array.from({ length: course.held === first ? 0 : count }, (_, n) => first + n);
    const held = own.length > 0 ? stations.map((station, i) => heldOf(station, landed(i), own)) : [];
    course.held = first;
    const x = packed(rows, inputWidth(this.#network));
    const bytes = hops.reduce((sum, hop) => sum + 4 * hop.floats, 4 * floats);
    const into = `readback${course.submits++ % READBACKS}`;
    const before = buffers.made;
    const { clean: hasRoom } = device.scoped("making room for a model's activations", () => {
      buffers.take("x", 4 * x.length);
      buffers.take(into, bytes, COPY_DST | MAP_READ);
      for (const [i, arrays] of held.entries())
        for (const [j, values] of arrays.entries()) buffers.take(heldName(i, j), values.byteLength);
      for (const hop of hops) hop.room?.();
    });
    if (buffers.made > before) await device.wait(hasRoom, SUBMIT_DEADLINE_MS);
    check();

    const readback = buffers.get(into);
    const { value, clean } = device.scoped("running a model", () => {
      upload(device, buffers.get("x"), 0, x);
      for (const [i, arrays] of held.entries())
        for (const [j, values] of arrays.entries()) upload(device, buffers.get(heldName(i, j)), 0, values);
      const encoder = device.handle.createCommandEncoder();
      const at = new Map([[0, buffers.get("x")]]);
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
    const done = Promise.all([value, clean]);
    done.catch(() => {}); // nobody looks at it if an earlier segment fails
    const deadlineMs = hops.reduce((sum, { slowestMs = 0 }) => sum + slowestMs, SUBMIT_DEADLINE_MS);
    const collect = (): Rows => {
      const values = mappedFloats(readback, bytes);
      let from = 0;
      for (const { floats, collect } of hops) {
        collect?.(values.subarray(from, from + floats));
        from += floats;
      }
      const data = unpacked(values.subarray(from), end, width);
      if (bytes > 0) readback.unmap();
      const state = landed(legs.length - 1);
      if (last.link.kind === "hold") hold(last.link, data.slice(), { ...last, state }, data);
      return { ...last.y, data };
    };
    return { done, deadlineMs, collect };
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
    this.#buffers.destroy();
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
