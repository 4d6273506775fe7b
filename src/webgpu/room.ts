/** Where the steps of many streams are computed: all that is not their states. */
import type { LruStage } from "../program.js";
import type { Device } from "./device.js";
import { type Segment, segmentWords, spread } from "./pipelines.js";
import type { StepLayout } from "./stepPlan.js";
import { uploadTimesteps } from "./timesteps.js";
import { bindGroup, COPY_DST, COPY_SRC, type LoadedKernels, STORAGE, UNIFORM, upload } from "./workspace.js";

/** Whether an area is a table of lambda^Delta: it has one row where tokens have no timesteps. */
export const isTable = ({ states }: StepLayout, area: number): boolean =>
  states.some(({ table }) => table === area);

/** The areas of a step's activations, and bind groups, for segments of up to a size. */
export class Room {
  readonly #device: Device;
  readonly #loaded: LoadedKernels;
  readonly #tokens: number;
  readonly #timed: boolean;
  readonly #buffers: readonly GPUBuffer[];
  readonly #states: ReadonlyMap<number, GPUBuffer>;
  readonly #segment: GPUBuffer;
  readonly #groups: readonly GPUBindGroup[];
  readonly #plan: StepLayout;
  /** Values of timesteps, and the row that each has in the tables. */
  readonly #known = new Map<number, number>();
  /** Every token's timestep is 1. */
  #isPlain = false;
  #words: Uint32Array | undefined;

  /** Of tokens with timesteps if `timed`: the tables then have a row for each, and else one. Within `Device.scoped`. */
  constructor(
    device: Device,
    plan: StepLayout,
    loaded: LoadedKernels,
    states: ReadonlyMap<number, GPUBuffer>,
    { tokens }: Segment,
    timed: boolean,
  ) {
    this.#device = device;
    this.#loaded = loaded;
    this.#states = states;
    this.#tokens = tokens;
    this.#timed = timed;
    this.#plan = plan;
    const usage = STORAGE | COPY_SRC | COPY_DST;
    this.#buffers = plan.areas.map(({ perToken }, i) => {
      const count = timed || !isTable(plan, i) ? tokens : 1;
      return device.handle.createBuffer({ size: Math.max(8, perToken * count), usage });
    });
    this.#segment = device.handle.createBuffer({ size: 16, usage: UNIFORM | COPY_DST });
    this.#groups = loaded.kernels.map(({ pipeline, sizes, arrays }) => {
      const bound = arrays.map((array) => (typeof array === "number" ? this.area(array) : array));
      return bindGroup(device, pipeline, [this.#segment, sizes, ...bound]);
    });
  }

  fits({ tokens }: Segment, timed: boolean): boolean {
    return tokens <= this.#tokens && (this.#timed || !timed);
  }

  /** Uploads the tokens' timesteps, all 1 if there are none; those that are there are not uploaded again. */
  place(timesteps: Float32Array | undefined): void {
    if (!timesteps && this.#isPlain) return;
    this.#isPlain = !timesteps;
    const tables = this.#plan.states.flatMap(({ slot, table }) => {
      const { params } = slot.stage as LruStage;
      return table === undefined ? [] : [{ buffer: this.area(table), params }];
    });
    const all = timesteps ?? new Float32Array(this.#tokens).fill(1);
    uploadTimesteps(this.#device, this.#known, all, this.area(this.#plan.times), tables);
  }

  area(index: number): GPUBuffer {
    return this.#states.get(index) ?? (this.#buffers[index] as GPUBuffer);
  }

  encode(encoder: GPUCommandEncoder, segment: Segment): void {
    const words = segmentWords(segment, false);
    if (words.some((word, i) => word !== this.#words?.[i])) upload(this.#device, this.#segment, 0, words);
    this.#words = words;
    const pass = encoder.beginComputePass();
    this.#loaded.kernels.forEach(({ pipeline, workgroups }, i) => {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, this.#groups[i] as GPUBindGroup);
      pass.dispatchWorkgroups(...spread(workgroups(segment)));
    });
    pass.end();
  }

  destroy(): void {
    for (const buffer of [...this.#buffers, this.#segment]) buffer.destroy();
  }
}
