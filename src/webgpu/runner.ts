/** A program on the GPU: its weights there, and the loop over the segments of a forward. */
import type { ForwardJob, Runner } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { Program } from "../program.js";
import { throwIfAborted } from "../signal.js";
import type { Device } from "./device.js";
import { type Pipelines, type Segment, segmentOf, T } from "./pipelines.js";
import { type Bounds, cut, type Layout, makePlan } from "./plan.js";
import { type Timesteps, timestepsOf } from "./timesteps.js";
import { collectPiece, type Piece, resultsOf, uploadPiece } from "./transfer.js";
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
    const longest = longestOf(lengths);
    const size = cut(this.#layout, batch, Math.max(1, longest), this.#bounds);
    for (let first = 0; first < batch; first += size.rows) {
      const rows = Math.min(size.rows, batch - first);
      await this.#runRows(job, timesteps, first, rows, size.seqLen);
      // What is past the lengths becomes zero only now: y may be the memory of x.
      const width = this.#layout.outputWidth;
      for (let row = first; row < first + rows; row++) {
        const length = lengths[row] as number;
        if (!this.#layout.pool) y.fill(0, (row * seqLen + length) * width, (row + 1) * seqLen * width);
        else if (length === 0) y.fill(0, row * width, (row + 1) * width);
      }
    }
    job.onProgress?.(batch * seqLen);
  }

  /** Rows `first` to `first + rows` of the batch, `step` timesteps at a time. What is carried stays on the GPU. */
  async #runRows(
    job: ForwardJob,
    timesteps: Timesteps | undefined,
    first: number,
    rows: number,
    step: number,
  ): Promise<void> {
    const longest = longestOf(job.lengths.subarray(first, first + rows));
    for (let start = 0; start < longest; start += step) {
      this.check(job);
      if (first + start > 0) job.onProgress?.(first * job.seqLen + rows * start);
      const segment = segmentOf(rows, Math.min(step, longest - start));
      const piece = { job, timesteps, first, start, segment, isLast: start + segment.seqLen === longest };
      try {
        const workspace = await this.#workspaceFor(segment);
        const { value: read, clean } = this.#device.scoped("running a model", () =>
          this.#submit(workspace, piece),
        );
        const deadline = SUBMIT_DEADLINE_MS + slowestMs(segment, this.#layout.flopsPerToken);
        const [values] = await this.#device.wait(Promise.all([read, clean]), deadline);
        this.check(job); // before y is written: its owner may have gone on
        collectPiece(this.#layout, piece, values);
        workspace.area(this.#layout.readback).unmap();
      } catch (error) {
        // It may be mapped, or about to be: the next forward starts with a new one.
        this.#dropWorkspace();
        throw error;
      }
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
  #submit(workspace: Workspace, piece: Piece): Promise<Float32Array> {
    const { queue } = this.#device.handle;
    uploadPiece(this.#device, this.#layout, workspace, piece);
    const encoder = this.#device.handle.createCommandEncoder();
    workspace.encode(encoder, piece.segment, piece.isLast);
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

function slowestMs({ rows, chunks }: Segment, flopsPerToken: number): number {
  return rows * chunks * (1 / SLOWEST_CHUNKS_PER_MS + (T * flopsPerToken) / SLOWEST_FLOPS_PER_MS);
}

function longestOf(lengths: Int32Array): number {
  return lengths.reduce((longest, length) => Math.max(longest, length), 0);
}
