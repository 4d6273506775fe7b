/** The states of many streams on the GPU, where they stay from step to step. */
import type { Resident, ResidentJob } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { Program } from "../program.js";
import { State, type StateLayout, stateLayout } from "../state.js";
import type { Device } from "./device.js";
import { FRESH, runsOf } from "./pieces.js";
import { type Pipelines, type Segment, segmentOf } from "./pipelines.js";
import { areaBytes } from "./plan.js";
import { blamePorts } from "./ports.js";
import { isTable, Room } from "./room.js";
import { makeStepPlan, type StepLayout } from "./stepPlan.js";
import { statesOf, takeStates } from "./transfer.js";
import {
  COPY_DST,
  COPY_SRC,
  type LoadedKernels,
  loadKernels,
  MAP_READ,
  STORAGE,
  SUBMIT_DEADLINE_MS,
  upload,
} from "./workspace.js";

/** Readbacks that are kept for the steps to come: as many as are under way where one waits for the third before. */
const SPARE = 3;

/** Steps of the same rows, or of one step some of the rows: tokens [first, first + segment.tokens) of [steps, streams]. */
interface Part {
  readonly first: number;
  readonly segment: Segment;
}

/** What a submit may not exceed. */
interface Bounds {
  readonly bytes: number;
  readonly flops: number;
  /** What a flop may take until it counts as hung. */
  readonly msPerFlop: number;
}

/** A program's steps on the GPU: its weights there, for all of its caches. */
export interface Steps {
  resident(slots: number, bounds: Bounds): Promise<Resident>;
  dispose(): void;
}

export async function openSteps(device: Device, pipelines: Pipelines, program: Program): Promise<Steps> {
  const { dispatches, ...layout } = makeStepPlan(program);
  const loaded = await loadKernels(device, pipelines, dispatches);
  const residents = new Set<GpuResident>();
  let disposed = false;
  return {
    async resident(slots, bounds) {
      const resident = await GpuResident.open(device, layout, loaded, stateLayout(program), slots, bounds);
      for (const other of residents) if (other.isLost) residents.delete(other);
      residents.add(resident);
      if (disposed) resident.dispose(); // meanwhile
      return resident;
    },
    dispose() {
      disposed = true;
      for (const resident of residents) resident.dispose();
      loaded.destroy();
    },
  };
}

class GpuResident implements Resident {
  readonly #device: Device;
  readonly #plan: StepLayout;
  readonly #loaded: LoadedKernels;
  readonly #layout: StateLayout;
  readonly #bounds: Bounds;
  readonly #states: ReadonlyMap<number, GPUBuffer>;
  readonly #readbacks: GPUBuffer[] = [];
  /** Those that are on their way. */
  readonly #taken = new Set<GPUBuffer>();
  #room: Room | undefined;
  #lost: LinrecError | undefined;

  /** Within `Device.scoped`. */
  private constructor(
    device: Device,
    plan: StepLayout,
    loaded: LoadedKernels,
    layout: StateLayout,
    slots: number,
    bounds: Bounds,
  ) {
    this.#device = device;
    this.#plan = plan;
    this.#loaded = loaded;
    this.#layout = layout;
    this.#bounds = bounds;
    const usage = STORAGE | COPY_SRC | COPY_DST;
    this.#states = new Map(
      plan.states.map(({ area, floats }) => {
        const size = Math.max(4, 4 * floats * slots);
        return [area, device.handle.createBuffer({ label: "states", size, usage })];
      }),
    );
  }

  /** Room for `slots` streams. Rejects with `unsupported` or `out-of-memory`. */
  static async open(
    device: Device,
    plan: StepLayout,
    loaded: LoadedKernels,
    layout: StateLayout,
    slots: number,
    bounds: Bounds,
  ): Promise<GpuResident> {
    const most = Math.max(0, ...plan.states.map(({ floats }) => 4 * floats * slots));
    const widest = Math.max(...plan.areas.map((area) => areaBytes(area, segmentOf(1, 1))));
    if (Math.max(most, widest) > device.maxBinding) {
      throw new LinrecError(
        "unsupported",
        `${slots} streams of this model need ${Math.max(most, widest)} bytes in one piece; this GPU binds at most ${device.maxBinding}. Use fewer, or several caches.`,
      );
    }
    const { value: resident, clean } = device.scoped(
      "making room for a cache",
      () => new GpuResident(device, plan, loaded, layout, slots, bounds),
    );
    await device.wait(clean, SUBMIT_DEADLINE_MS).catch((error) => {
      resident.#destroy(); // what there was memory for
      throw error;
    });
    return resident;
  }

  /** Its memory has been freed, for whatever reason. */
  get isLost(): boolean {
    return this.#lost !== undefined;
  }

  step(job: ResidentJob): Promise<void> {
    const [places, timesteps] = [placesOf(job), job.timesteps?.slice()]; // now: they may change
    return this.#run(() => {
      const reads = this.#partsOf(job).map((part) => {
        const { value, clean } = this.#device.scoped("stepping", () =>
          this.#submit(job, places, timesteps, part),
        );
        const read = blamePorts(job.ports, Promise.all([value, clean])).then(([take]) => take?.());
        read.catch(() => {}); // nobody looks at it if a later part fails
        return read;
      });
      return { reads, flops: job.steps * job.streams * this.#plan.flopsPerToken };
    });
  }

  async read(rows: Int32Array): Promise<State> {
    const state = new State(this.#layout, rows.length);
    const rowBytes = this.#plan.states.reduce((sum, { floats }) => sum + 4 * floats, 0);
    // All states of some rows go into one buffer, and may be more than it has room for.
    const most = Math.max(1, Math.floor(this.#device.maxBinding / rowBytes));
    await this.#run(() => {
      const reads: Promise<void>[] = [];
      for (let first = 0; first < rows.length; first += most)
        reads.push(this.#readRows(rows.subarray(first, first + most), rowBytes, state, first));
      return { reads, flops: 0 };
    });
    return state;
  }

  /** They are those of `state` from `first` on. */
  #readRows(rows: Int32Array, rowBytes: number, state: State, first: number): Promise<void> {
    const bytes = rowBytes * rows.length;
    const { value, clean } = this.#device.scoped("reading a cache", () => {
      const encoder = this.#device.handle.createCommandEncoder();
      const readback = this.#readback(bytes);
      let to = 0;
      for (const { area, floats } of this.#plan.states) {
        for (const [, from, count] of runsOf(rows)) {
          const size = 4 * floats * count;
          encoder.copyBufferToBuffer(this.#state(area), 4 * floats * from, readback, to, size);
          to += size;
        }
      }
      this.#device.handle.queue.submit([encoder.finish()]);
      const own = Array.from(rows, (_, i) => first + i);
      return this.#map(readback, bytes, (values) => takeStates(state, own, values, true));
    });
    const read = Promise.all([value, clean]).then(([take]) => take());
    read.catch(() => {}); // nobody looks at it if a later one fails
    return read;
  }

  write(rows: Int32Array, state: State): Promise<void> {
    const values = statesOf(state, [...rows.keys()], true);
    return this.#run(() => {
      const { clean } = this.#device.scoped("writing a cache", () => {
        for (const [i, { area, floats }] of this.#plan.states.entries()) {
          for (const [at, from, count] of runsOf(rows))
            upload(
              this.#device,
              this.#state(area),
              4 * floats * from,
              values[i] as Float32Array,
              floats * at,
              floats * count,
            );
        }
      });
      return { reads: [clean], flops: 0 };
    });
  }

  /** Submits when those before have been submitted, not when they are done. What goes wrong leaves no state to trust. */
  async #run(submit: () => { reads: Promise<void>[]; flops: number }): Promise<void> {
    try {
      const { reads, flops } = await this.#device.enqueue(async () => {
        if (this.#lost) throw this.#lost;
        return submit();
      });
      await this.#device.wait(Promise.all(reads), SUBMIT_DEADLINE_MS + flops * this.#bounds.msPerFlop);
      if (this.#lost) throw this.#lost;
    } catch (error) {
      const lost = this.#lost;
      this.#lose(error as LinrecError);
      if (!lost) throw error;
      if (lost.code === "disposed") throw lost;
      throw new LinrecError(lost.code, `This cache's state was lost: ${lost.message} Make a new one.`, {
        cause: lost,
      });
    }
  }

  #lose(error: LinrecError): void {
    if (this.#lost) return;
    this.#lost = error;
    this.#destroy();
  }

  /** As many tokens at a time as the GPU takes: whole steps, or of one step some of the rows. */
  #partsOf({ steps, streams, timesteps }: ResidentJob): Part[] {
    const { areas, flopsPerToken } = this.#plan;
    const perToken = areas.map((area, i) => (timesteps || !isTable(this.#plan, i) ? area.perToken : 0));
    const total = perToken.reduce((sum, bytes) => sum + bytes, 0);
    const most = Math.max(
      1,
      Math.floor(
        Math.min(
          this.#device.maxBinding / Math.max(...perToken),
          this.#bounds.bytes / total,
          this.#bounds.flops / flopsPerToken,
        ),
      ),
    );
    const parts: Part[] = [];
    const together = Math.floor(most / streams);
    for (let t = 0; t < steps; t += Math.max(1, together)) {
      if (together > 0) {
        parts.push({ first: t * streams, segment: segmentOf(streams, Math.min(together, steps - t)) });
        continue;
      }
      for (let row = 0; row < streams; row += most)
        parts.push({ first: t * streams + row, segment: segmentOf(Math.min(most, streams - row), 1) });
    }
    return parts;
  }

  /** Gives what maps y and puts it where it belongs. Within `Device.scoped`. */
  #submit(
    { x, y, ports }: ResidentJob,
    places: Uint32Array,
    timesteps: Float32Array | undefined,
    { first, segment }: Part,
  ): Promise<(() => void) | undefined> {
    const { inputWidth, outputWidth, input, output } = this.#plan;
    const { tokens } = segment;
    const room = this.#roomFor(segment, timesteps !== undefined);
    room.place(timesteps?.subarray(first, first + tokens));
    const xRange = [first * inputWidth, tokens * inputWidth] as const;
    const yRange = [first * outputWidth, tokens * outputWidth] as const;
    upload(this.#device, room.area(this.#plan.places), 0, places, 2 * first, 2 * tokens);
    if (!ports?.x) upload(this.#device, room.area(input), 0, x, ...xRange);
    const encoder = this.#device.handle.createCommandEncoder();
    if (ports?.x)
      encoder.copyBufferToBuffer(ports.x as GPUBuffer, 4 * xRange[0], room.area(input), 0, 4 * xRange[1]);
    room.encode(encoder, segment);
    const readback = ports?.y ? undefined : this.#readback(4 * yRange[1]);
    const [to, offset] = readback ? [readback, 0] : [ports?.y as GPUBuffer, 4 * yRange[0]];
    encoder.copyBufferToBuffer(room.area(output), 0, to, offset, 4 * yRange[1]);
    this.#device.handle.queue.submit([encoder.finish()]);
    if (!readback) return Promise.resolve(undefined);
    return this.#map(readback, 4 * yRange[1], (values) => y.set(values, yRange[0]));
  }

  #roomFor(segment: Segment, timed: boolean): Room {
    if (!this.#room?.fits(segment, timed)) {
      this.#room?.destroy();
      this.#room = new Room(this.#device, this.#plan, this.#loaded, this.#states, segment, timed);
    }
    return this.#room;
  }

  #state(area: number): GPUBuffer {
    return this.#states.get(area) as GPUBuffer;
  }

  /** A buffer to read from; {@link GpuResident.#map} gives it back. */
  #readback(bytes: number): GPUBuffer {
    const spare = this.#readbacks.findIndex(({ size }) => size >= bytes);
    const room = 2 ** Math.ceil(Math.log2(Math.max(4, bytes)));
    const size = Math.max(bytes, Math.min(room, this.#device.maxBinding));
    const readback =
      spare < 0
        ? this.#device.handle.createBuffer({ size, usage: COPY_DST | MAP_READ })
        : (this.#readbacks.splice(spare, 1)[0] as GPUBuffer);
    this.#taken.add(readback);
    return readback;
  }

  async #map(readback: GPUBuffer, bytes: number, use: (values: Float32Array) => void): Promise<() => void> {
    await readback.mapAsync(MAP_READ, 0, Math.max(4, bytes));
    return () => {
      if (this.#lost) throw this.#lost; // meanwhile; y is its owner's again
      use(new Float32Array(readback.getMappedRange(0, Math.max(4, bytes)), 0, bytes / 4));
      readback.unmap();
      this.#taken.delete(readback);
      this.#readbacks.push(readback);
      if (this.#readbacks.length > SPARE) this.#readbacks.shift()?.destroy();
    };
  }

  dispose(): void {
    this.#lose(new LinrecError("disposed", "This cache, or its model, has been disposed of."));
  }

  #destroy(): void {
    for (const buffer of [...this.#states.values(), ...this.#readbacks, ...this.#taken]) buffer.destroy();
    this.#room?.destroy();
  }
}

/** [tokens, 2]: slot | FRESH, and the bits of the tokens since the origin. */
function placesOf({ rows, fresh, counts }: ResidentJob): Uint32Array {
  const places = new Uint32Array(2 * counts.length);
  const bits = new Uint32Array(counts.buffer, counts.byteOffset, counts.length);
  for (let i = 0; i < counts.length; i++) {
    places[2 * i] = (rows[i % rows.length] as number) + (fresh[i] ? FRESH : 0);
    places[2 * i + 1] = bits[i] as number;
  }
  return places;
}
