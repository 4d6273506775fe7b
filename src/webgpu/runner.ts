/** A program on the GPU: its weights there, and the loop over the segments of a forward. */
import type { ForwardJob, Runner } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { Program } from "../program.js";
import { throwIfAborted } from "../signal.js";
import { Timeline } from "../timeline.js";
import type { Device } from "./device.js";
import { type Bounds, type Part, type Piece, piecesOf } from "./pieces.js";
import { type Pipelines, type Segment, T } from "./pipelines.js";
import { type Layout, makePlan } from "./plan.js";
import { type Timesteps, timestepsOf } from "./timesteps.js";
import { collectPiece, type Passage, resultsOf, uploadPiece } from "./transfer.js";
import { type LoadedKernels, loadKernels, MAP_READ, SUBMIT_DEADLINE_MS, Workspace } from "./workspace.js";

/** Scratch that a runner may keep: enough tokens to fill a large GPU at any width, little next to any GPU's memory. */
export const SCRATCH_BYTES = 64 * 2 ** 20;

/** Work in one submit: about 0.1 s of an integrated GPU. Browsers reset a GPU that is busy for seconds. */
const SUBMIT_FLOPS = 2e10;

/** A submit may take longer than the least deadline by this: more than a hundred times what a software adapter takes. */
const SLOWEST_FLOPS_PER_MS = 1e5;
const SLOWEST_CHUNKS_PER_MS = 1;

/** Uploads a program and compiles its kernels. Rejects with `unsupported`, `out-of-memory` or `gpu-failed`. */
export async function prepareRunner(
  device: Device,
  pipelines: Pipelines,
  program: Program,
  scratchBytes: number,
): Promise<Runner> {
  const prepare = async (timed: boolean) => {
    const { dispatches, ...layout } = makePlan(program, timed);
    return new GpuRunner(device, layout, await loadKernels(device, pipelines, dispatches), scratchBytes);
  };
  const plain = await prepare(false);
  /** With dispatches and weights of its own: made when first wanted. */
  let timed: Promise<GpuRunner> | undefined;
  return {
    forward(job) {
      const run = async () => {
        plain.check(job);
        const timesteps = timestepsOf(job);
        if (!timesteps) return plain.run(job, timesteps);
        timed ??= prepare(true);
        timed.catch(() => {
          timed = undefined;
        });
        return (await timed).run(job, timesteps);
      };
      return device.enqueue(run);
    },
    dispose() {
      plain.dispose();
      timed?.then((runner) => runner.dispose()).catch(() => {});
    },
  };
}

class GpuRunner {
  readonly #device: Device;
  readonly #layout: Layout;
  readonly #loaded: LoadedKernels;
  readonly #bounds: Bounds;
  #workspace: Workspace | undefined;
  #disposed = false;

  constructor(device: Device, layout: Layout, loaded: LoadedKernels, scratchBytes: number) {
    this.#device = device;
    this.#layout = layout;
    this.#loaded = loaded;
    this.#bounds = { areaBytes: device.maxBinding, totalBytes: scratchBytes, flops: SUBMIT_FLOPS };
  }

  async run(job: ForwardJob, timesteps: Timesteps | undefined): Promise<void> {
    const { batch, seqLen, lengths, y } = job;
    this.check(job);
    const passage = { job, timesteps, timeline: new Timeline(job), layout: this.#layout };
    for (const piece of piecesOf(this.#layout, job, passage.timeline, this.#bounds)) {
      this.check(job);
      const [{ row, start }] = piece.parts as [Part];
      if (row + start > 0) job.onProgress?.(row * seqLen + start);
      await this.#runPiece(passage, piece);
    }
    const rowFloats = y.length / batch;
    for (let row = 0; row < batch; row++)
      if (lengths[row] === 0) y.fill(0, row * rowFloats, (row + 1) * rowFloats);
    job.onProgress?.(batch * seqLen);
  }

  /** What is carried from piece to piece of a row stays on the GPU. */
  async #runPiece(passage: Passage, piece: Piece): Promise<void> {
    try {
      const workspace = await this.#workspaceFor(piece.room);
      const { value: read, clean } = this.#device.scoped("running a model", () =>
        this.#submit(workspace, passage, piece),
      );
      const deadline = SUBMIT_DEADLINE_MS + slowestMs(piece.segment, this.#layout.flopsPerToken);
      const [values] = await this.#device.wait(Promise.all([read, clean]), deadline);
      this.check(passage.job); // before y is written: its owner may have gone on
      collectPiece(passage, piece, values);
      workspace.area(this.#layout.readback).unmap();
    } catch (error) {
      // It may be mapped, or about to be: the next forward starts with a new one.
      this.#dropWorkspace();
      throw error;
    }
  }

  async #workspaceFor(segment: Segment): Promise<Workspace> {
    const previous = this.#workspace;
    if (previous?.fits(this.#layout, segment)) return previous;
    this.#dropWorkspace();
    const { value: workspace, clean } = this.#device.scoped(
      "making room for a model's activations",
      () => new Workspace(this.#device, this.#layout, this.#loaded.kernels, segment, previous),
    );
    this.#workspace = workspace;
    await this.#device.wait(clean, SUBMIT_DEADLINE_MS);
    return workspace;
  }

  /** Uploads a piece, runs it and maps what comes back. Within `Device.scoped`. */
  #submit(workspace: Workspace, passage: Passage, piece: Piece): Promise<Float32Array> {
    const { queue } = this.#device.handle;
    uploadPiece(this.#device, passage, workspace, piece);
    const encoder = this.#device.handle.createCommandEncoder();
    workspace.encode(encoder, piece.segment, piece.isLast, passage.timeline.every > 1);
    const readback = workspace.area(this.#layout.readback);
    let bytes = 0;
    for (const { area, floats } of resultsOf(this.#layout, piece)) {
      encoder.copyBufferToBuffer(workspace.area(area), 0, readback, bytes, 4 * floats);
      bytes += 4 * floats;
    }
    queue.submit([encoder.finish()]);
    if (bytes === 0) return queue.onSubmittedWorkDone().then(() => new Float32Array(0));
    return readback
      .mapAsync(MAP_READ, 0, bytes)
      .then(() => new Float32Array(readback.getMappedRange(0, bytes)));
  }

  check(job: ForwardJob): void {
    if (this.#disposed)
      throw new LinrecError("disposed", "The model was disposed of before this forward had started.");
    throwIfAborted(job.signal);
  }

  #dropWorkspace(): void {
    this.#workspace?.destroy();
    this.#workspace = undefined;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#dropWorkspace();
    this.#loaded.destroy();
  }
}

function slowestMs({ chunks }: Segment, flopsPerToken: number): number {
  return chunks * (1 / SLOWEST_CHUNKS_PER_MS + (T * flopsPerToken) / SLOWEST_FLOPS_PER_MS);
}
