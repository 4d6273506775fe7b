/** The GPU memory of a runner: weights, which it keeps, and areas, which grow to the largest segment it has run. */
import { LinrecError } from "../errors.js";
import type { Device } from "./device.js";
import { type Dispatch, type Over, scheduled, segmentsOf } from "./dispatches.js";
import { type Pipelines, type Segment, segmentWords, spread, tileOf } from "./pipelines.js";
import { areaBytes, type Layout } from "./plan.js";
import { tunedTiles } from "./tune.js";

/** GPUBufferUsage and GPUMapMode by value: Node has no such globals. */
export const MAP_READ = 1;
export const COPY_SRC = 4;
export const COPY_DST = 8;
export const UNIFORM = 64;
export const STORAGE = 128;
const READBACK = COPY_DST | MAP_READ;

/** WebGPU has no bindings of zero bytes. */
const WORD_BYTES = 4;
/** Uniforms have up to four words. */
const UNIFORM_BYTES = 16;

/** When something that takes milliseconds counts as hung. */
export const SUBMIT_DEADLINE_MS = 30_000;

/** A dispatch made ready: everything but the areas, which change when the workspace grows. */
export interface Kernel extends Pick<Dispatch, "workgroups" | "over" | "single" | "into"> {
  readonly pipeline: GPUComputePipeline;
  readonly sizes: GPUBuffer;
  /** In binding order: the number of an area, or a weight's buffer. */
  readonly arrays: readonly (number | GPUBuffer)[];
}

/** The dispatches of a plan, with all of the GPU memory that they own. */
export interface LoadedKernels {
  readonly kernels: readonly Kernel[];
  destroy(): void;
}

/** Uploads the weights, before it returns, and compiles what has not been. */
export async function loadKernels(
  device: Device,
  pipelines: Pipelines,
  dispatches: readonly Dispatch[],
): Promise<LoadedKernels> {
  for (const array of dispatches.flatMap(({ arrays }) => arrays)) {
    if (typeof array === "number" || array.byteLength <= device.maxBinding) continue;
    const message = `A layer's weights take ${array.byteLength} bytes; this GPU binds at most ${device.maxBinding}.`;
    throw new LinrecError("unsupported", `${message} Use another backend.`);
  }
  const weights = new Map<Float32Array, GPUBuffer>();
  const { value: uploaded, clean } = device.scoped("uploading a model", () =>
    dispatches.map(({ sizes, arrays }) => ({
      sizes: uploadNew(device, Uint32Array.from(sizes), UNIFORM),
      arrays: arrays.map((array) => {
        if (typeof array === "number") return array;
        const buffer = weights.get(array) ?? uploadNew(device, array, STORAGE);
        weights.set(array, buffer);
        return buffer;
      }),
    })),
  );
  const destroy = (): void => {
    for (const buffer of [...weights.values(), ...uploaded.map(({ sizes }) => sizes)]) buffer.destroy();
  };
  try {
    await device.wait(clean, SUBMIT_DEADLINE_MS);
    pipelines.tiles ??= await tunedTiles(device, pipelines);
    const { tiles } = pipelines;
    const kernels = dispatches.map(
      async ({ kernel, workgroups, over, single, into, epilogue, real, back }, i) => {
        const tile = tileOf(tiles, kernel);
        return {
          ...(uploaded[i] as (typeof uploaded)[number]),
          ...{ over, single, into, pipeline: await pipelines.get(kernel, tile, epilogue, real, back) },
          workgroups: (segment: Segment) => workgroups(segment, tile),
        };
      },
    );
    return { kernels: await Promise.all(kernels), destroy };
  } catch (error) {
    destroy();
    throw error;
  }
}

function uploadNew(device: Device, values: Float32Array | Uint32Array, usage: number): GPUBuffer {
  const size = Math.max(usage === UNIFORM ? UNIFORM_BYTES : WORD_BYTES, values.byteLength);
  const buffer = device.handle.createBuffer({ size, usage: usage | COPY_DST });
  upload(device, buffer, 0, values);
  return buffer;
}

/** Copies `count` values of an array, from `start`, to a byte offset. Within `Device.scoped`. */
export function upload(
  device: Device,
  buffer: GPUBuffer,
  offset: number,
  values: Float32Array | Uint32Array,
  start = 0,
  count = values.length,
): void {
  if (count === 0) return; // Deno panics over an array of nothing
  const part = values.subarray(start, start + count);
  const isShared = Object.prototype.toString.call(values.buffer) !== "[object ArrayBuffer]";
  // Shared memory is copied first: Dawn's Node binding crashes the process over a SharedArrayBuffer.
  const source = (isShared ? part.slice() : part) as Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  device.handle.queue.writeBuffer(buffer, offset, source);
}

/** What a kernel binds, in binding order. Within `Device.scoped`. */
export function bindGroup(
  { handle }: Device,
  pipeline: GPUComputePipeline,
  buffers: readonly (GPUBuffer | GPUBufferBinding)[],
): GPUBindGroup {
  return handle.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: buffers.map((buffer, binding) => ({
      binding,
      resource: "buffer" in buffer ? buffer : { buffer },
    })),
  });
}

/** Asks for what a submit puts into a readback; if that is nothing, for the submit's end. Within `Device.scoped`. */
export function mapForReading({ handle }: Device, readback: GPUBuffer, bytes: number): Promise<undefined> {
  return bytes > 0 ? readback.mapAsync(MAP_READ, 0, bytes) : handle.queue.onSubmittedWorkDone();
}

/** What came of {@link mapForReading}, until the readback is unmapped. */
export function mappedFloats(readback: GPUBuffer, bytes: number): Float32Array {
  return bytes > 0 ? new Float32Array(readback.getMappedRange(0, bytes)) : new Float32Array(0);
}

const overs = ["tokens", "outputs", "rows"] as const;

type Bound = ReadonlyMap<number, GPUBufferBinding>;

/** The areas and bind groups for segments of up to a size. */
export class Workspace {
  readonly #device: Device;
  readonly #kernels: readonly Kernel[];
  readonly #sizes: readonly number[];
  readonly #areas: readonly GPUBuffer[];
  readonly #readbacks: GPUBuffer[];
  readonly #readbackBytes: number;
  readonly #segments: Readonly<Record<Over, GPUBuffer>>;
  readonly #groups: readonly GPUBindGroup[];
  readonly #held = new Map<GPUBuffer, Uint32Array>();
  /** Values of timesteps, and the row that each has in the areas of lambda^Delta. */
  readonly timesteps = new Map<number, number>();

  /** Holds `largest` and whatever `previous` held. Within `Device.scoped`. */
  constructor(
    device: Device,
    plan: Layout,
    kernels: readonly Kernel[],
    largest: Segment,
    previous?: Workspace,
  ) {
    this.#device = device;
    this.#kernels = kernels;
    this.#sizes = plan.areas.map((area, i) => {
      const bytes = Math.max(WORD_BYTES, areaBytes(area, largest), previous ? previous.#size(i) : 0);
      // Powers of two, so that sequences that grow from call to call do not need new memory at each.
      return Math.min(2 ** Math.ceil(Math.log2(bytes)), device.maxBinding);
    });
    this.#areas = this.#sizes.map((size, i) => {
      const usage = i === plan.readback ? READBACK : STORAGE | COPY_SRC | COPY_DST;
      return device.handle.createBuffer({ size, usage });
    });
    this.#readbacks = [this.area(plan.readback)];
    this.#readbackBytes = this.#size(plan.readback);
    const uniform = () => device.handle.createBuffer({ size: UNIFORM_BYTES, usage: UNIFORM | COPY_DST });
    this.#segments = { tokens: uniform(), outputs: uniform(), rows: uniform() };
    this.#groups = kernels.map((kernel) => this.#bind(kernel));
  }

  #bind({ pipeline, over = "tokens", sizes, arrays }: Kernel, others?: Bound): GPUBindGroup {
    const bound = arrays.map((array) =>
      typeof array === "number" ? (others?.get(array) ?? this.area(array)) : array,
    );
    return bindGroup(this.#device, pipeline, [this.#segments[over], sizes, ...bound]);
  }

  fits(plan: Layout, segment: Segment): boolean {
    return plan.areas.every((area, i) => areaBytes(area, segment) <= this.#size(i));
  }

  #size(area: number): number {
    return this.#sizes[area] as number;
  }

  area(index: number): GPUBuffer {
    return this.#areas[index] as GPUBuffer;
  }

  /** Uploads what a table is to hold from now on, unless it does: to steps, every piece is like the one before. */
  hold(table: GPUBuffer, words: Uint32Array): void {
    const held = this.#held.get(table);
    if (held?.length === words.length && held.every((word, i) => word === words[i])) return;
    this.#held.set(table, words);
    upload(this.#device, table, 0, words);
  }

  /** One of the buffers that are read by the CPU: the first is the layout's area, others are made when wanted. */
  readback(nth: number): GPUBuffer {
    const { handle } = this.#device;
    this.#readbacks[nth] ??= handle.createBuffer({ size: this.#readbackBytes, usage: READBACK });
    return this.#readbacks[nth];
  }

  /**
   * Encodes the dispatches of a segment, and if it is the last one those of the rows; `bound` stands in for some areas. Within
   * `Device.scoped`.
   */
  encode(
    encoder: GPUCommandEncoder,
    tokens: Segment,
    isLast: boolean,
    isThinned = false,
    bound?: Bound,
  ): void {
    const segments = segmentsOf(tokens, isThinned);
    for (const over of overs) {
      this.hold(this.#segments[over], segmentWords(segments[over], isThinned && over === "outputs"));
    }
    let pass = encoder.beginComputePass();
    for (const { dispatch, index, on } of scheduled(this.#kernels, tokens, isLast, isThinned)) {
      const { pipeline, workgroups, into, arrays } = dispatch;
      pass.setPipeline(pipeline);
      const isBound = arrays.some((array) => bound?.has(array as number));
      pass.setBindGroup(0, isBound ? this.#bind(dispatch, bound) : (this.#groups[index] as GPUBindGroup));
      pass.dispatchWorkgroups(...spread(workgroups(on)));
      if (!into) continue;
      pass.end();
      const from = this.area(arrays[0] as number);
      const to = this.area(into.area);
      encoder.copyBufferToBuffer(from, 0, to, 0, into.bytes * on.tokens);
      pass = encoder.beginComputePass();
    }
    pass.end();
  }

  destroy(): void {
    const all = [...this.#areas, ...this.#readbacks.slice(1), ...Object.values(this.#segments)];
    for (const buffer of all) buffer.destroy();
  }
}
