/** WebGPU as a backend. Its states are float32: a split of a sequence may change the last bits. */
import type { Backend, GpuRates, Linked, Passes, Runner } from "../backend.js";
import type { Network, Program } from "../program.js";
import { asGpuError, type Device, openDevice } from "./device.js";
import type { Lifting } from "./lifting.js";
import { prepareLinked } from "./linked.js";
import { measureDevice } from "./measure.js";
import { type Layers, passesOf } from "./passes.js";
import { Pipelines } from "./pipelines.js";
import { prepareRunner, SCRATCH_BYTES } from "./runner.js";
import { softwareTiles, type Tiles } from "./tiles.js";

/**
 * Opens `gpu` (a `GPU`, as `navigator.gpu` is one), else the browser's, else in Node that of the optional npm package
 * `webgpu`. Never throws: without a usable GPU, `reason` says why and what may help.
 */
export async function openWebgpu(gpu?: unknown): Promise<{ backend: WebgpuBackend } | { reason: string }> {
  const opened = await openDevice(gpu);
  return "reason" in opened ? opened : { backend: new WebgpuBackend(opened.device) };
}

export class WebgpuBackend implements Backend {
  readonly name = "webgpu";
  /** The GPU is a program on the CPU (SwiftShader, llvmpipe, WARP): right, but hardly ever the fastest. */
  readonly software: boolean;
  /** For people: what the GPU calls itself. */
  readonly adapter: string;
  readonly #device: Device;
  readonly #pipelines: Pipelines;

  /** @param tiles to use in place of the fastest, which are found by trying when the first program is prepared */
  constructor(device: Device, tiles?: Tiles) {
    this.#device = device;
    this.#pipelines = new Pipelines(device, tiles);
    this.software = device.software;
    this.adapter = device.description;
  }

  get handle(): GPUDevice {
    return this.#device.handle;
  }

  /**
   * Uploads a program and compiles its kernels. A runner keeps the GPU memory of the largest forward it has run, up to
   * about twice `scratchBytes`: longer sequences and larger batches are run in pieces. Forwards of all runners run in
   * the order of the calls. Rejects with `unsupported`, `out-of-memory`, `gpu-failed`, `timeout` or `disposed`.
   */
  prepare(program: Program, scratchBytes = SCRATCH_BYTES, lifting?: Lifting): Promise<Runner> {
    return prepareRunner(this.#device, this.#pipelines, program, scratchBytes, lifting);
  }

  /** The same of a network whose rate changes. */
  prepareLinked(network: Network, scratchBytes = SCRATCH_BYTES): Promise<Linked> {
    return prepareLinked(this.#device, this.#pipelines, network, scratchBytes);
  }

  /** What a forward's price is of: of timesteps, how many values they have, 0 where there are none. */
  passes(work: Network | Layers, batch: number, seqLen: number, timed: number): Passes {
    // Where nothing has been run, and so no tile been tried, it is software.
    const { tiles = softwareTiles } = this.#pipelines;
    return passesOf(work, batch, seqLen, timed, this.#device, SCRATCH_BYTES, tiles);
  }

  /** Times the parts of a forward: a few milliseconds on a GPU, seconds on a CPU that plays one. When nothing else runs. */
  measure(): Promise<GpuRates> {
    return measureDevice(this.#device, this.#pipelines, (program) => this.prepare(program));
  }

  /** Ends it: whoever waits for it, and whoever comes later, gets the error. */
  fail(error: unknown): void {
    this.#device.fail(asGpuError(error));
  }

  dispose(): void {
    this.#device.dispose();
  }
}
