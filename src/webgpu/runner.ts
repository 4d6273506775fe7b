/** A program on the GPU: its weights there, and the loop over the segments of a forward. */
import type { ForwardJob, Runner } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { Program } from "../program.js";
import { throwIfAborted } from "../runtime/signal.js";
import { Timeline } from "../timeline.js";
import { liftingOf } from "./chooseLift.js";
import { asGpuError, type Device } from "./device.js";
import { isLifted, runLifted } from "./lifting.js";
import { type Part, type Piece, piecesOf } from "./pieces.js";
import type { Pipelines, Segment } from "./pipelines.js";
import { type Layout, makePlan, READBACKS } from "./plan.js";
import { blamePorts, boundPorts, clearEmptyRows, copyInput, copyOutput } from "./ports.js";
import { openSteps, type Steps } from "./resident.js";
import { T } from "./tiles.js";
import { collectPiece, type Passage, resultsOf, uploadPiece } from "./transfer.js";
import {
  type LoadedKernels,
  loadKernels,
  mapForReading,
  mappedFloats,
  SUBMIT_DEADLINE_MS,
  Workspace,
} from "./workspace.js";

/** Scratch that a runner may keep: enough tokens to fill a large GPU at any width, little next to any GPU's memory. */
export const SCRATCH_BYTES = 64 * 2 ** 20;

/** About how long a submit may take. Browsers reset a GPU that is busy for seconds; a page wants it for its pictures. */
export const SUBMIT_MS = 50;

/** A submit may take longer than the least deadline by this: more than a hundred times what a software adapter takes. */
const SLOWEST_FLOPS_PER_MS = 1e5;
const SLOWEST_CHUNKS_PER_MS = 1;

/** Uploads a program and compiles its kernels. Rejects with `unsupported`, `out-of-memory` or `gpu-failed`. */
export async function prepareRunner(
  device: Device,
  pipelines: Pipelines,
  program: Program,
  scratchBytes: number,
  lifting = liftingOf(program),
): Promise<Runner> {
  const prepare = async (timed: boolean, lift = 1) => {
    const { dispatches, ...layout } = makePlan(program, timed, lift);
    return new GpuRunner(device, layout, await loadKernels(device, pipelines, dispatches), scratchBytes);
  };
  const plain = await prepare(false);
  /** With dispatches and weights of their own: made when first wanted. */
  const others = new Map<boolean, Promise<GpuRunner>>();
  const other = (timed: boolean): Promise<GpuRunner> => {
    const known = others.get(timed);
    if (known) return known;
    const made = prepare(timed, timed ? 1 : lifting.lift);
    others.set(timed, made);
    made.catch(() => others.delete(timed));
    return made;
  };
  let steps: Promise<Steps> | undefined;
  return {
    forward(job) {
      const run = async () => {
        plain.check(job);
        if (job.timesteps) return (await other(true)).run(job);
        if (!isLifted(job, lifting)) return plain.run(job);
        const lifted = await other(false);
        return runLifted(
          program,
          job,
          lifting.lift,
          (head) => lifted.run(head),
          (tail) => plain.run(tail),
        );
      };
      return device.enqueue(run);
    },
    async resident(slots) {
      steps ??= openSteps(device, pipelines, program);
      steps.catch(() => {
        steps = undefined;
      });
      const flops = SUBMIT_MS * device.flopsPerMs;
      const bounds = { bytes: scratchBytes, flops, msPerFlop: 1 / SLOWEST_FLOPS_PER_MS };
      return (await steps).resident(slots, bounds);
    },
    dispose() {
      plain.dispose();
      steps?.then(({ dispose }) => dispose()).catch(() => {});
      for (const made of others.values()) made.then((runner) => runner.dispose()).catch(() => {});
    },
  };
}

/** A piece on its way through the GPU. Once `done`, what comes of it is in the first `bytes` of `readback`, mapped. */
interface Submitted {
  readonly piece: Piece;
  readonly done: Promise<unknown>;
  readonly readback: GPUBuffer;
  readonly bytes: number;
}

class GpuRunner {
  readonly #device: Device;
  readonly #layout: Layout;
  readonly #loaded: LoadedKernels;
  readonly #scratchBytes: number;
  #workspace: Workspace | undefined;
  #disposed = false;

  constructor(device: Device, layout: Layout, loaded: LoadedKernels, scratchBytes: number) {
    this.#device = device;
    this.#layout = layout;
    this.#loaded = loaded;
    this.#scratchBytes = scratchBytes;
  }

  /**
   * While a piece is computed the next one is uploaded and waits behind it, and what the one before it gave is read: the
   * queue never runs dry. What is carried from piece to piece of a row stays on the GPU.
   */
  async run(job: ForwardJob): Promise<void> {
    const { batch, seqLen, lengths, y } = job;
    this.check(job);
    const passage = { job, timeline: new Timeline(job), layout: this.#layout };
    const { maxBinding: areaBytes, flopsPerMs } = this.#device;
    const bounds = { areaBytes, totalBytes: this.#scratchBytes, flops: SUBMIT_MS * flopsPerMs };
    const submitted: Submitted[] = [];
    const land = () => this.#land(passage, submitted.shift() as Submitted);
    const all = piecesOf(this.#layout, job, passage.timeline, bounds);
    // What cannot be run is refused before anything is.
    const pieces = this.#layout.whole ? [...all] : all;
    try {
      let count = 0;
      for (const piece of pieces) {
        const grows = () => this.#workspace?.fits(this.#layout, piece.room) === false;
        while (submitted.length === READBACKS || (submitted.length > 0 && grows())) await land();
        const workspace = await this.#workspaceFor(piece.room);
        this.check(job);
        submitted.push(this.#submit(workspace, passage, piece, count++ % READBACKS));
      }
      while (submitted.length > 0) await land();
    } catch (error) {
      // Some of it may be mapped, or about to be: the next forward starts with a new one.
      this.#dropWorkspace();
      throw asGpuError(error);
    }
    await this.#device.wait(blamePorts(job.ports, clearEmptyRows(this.#device, job)), SUBMIT_DEADLINE_MS);
    const rowFloats = y.length / batch;
    for (let row = 0; row < batch; row++)
      if (lengths[row] === 0) y.fill(0, row * rowFloats, (row + 1) * rowFloats);
    job.onProgress?.(batch * seqLen);
  }

  /** Waits for the oldest piece under way, and commits it. */
  async #land(passage: Passage, { piece, done, readback, bytes }: Submitted): Promise<void> {
    const { job } = passage;
    const { batch, seqLen, lengths } = job;
    const deadline = SUBMIT_DEADLINE_MS + slowestMs(piece.segment, this.#layout);
    await this.#device.wait(done, deadline);
    this.check(job); // before y is written: its owner may have gone on
    // Not before now: a device that is destroyed takes its mapped memory with it at once.
    collectPiece(passage, piece, mappedFloats(readback, bytes));
    if (bytes > 0) readback.unmap();
    const { row, end } = piece.parts.at(-1) as Part;
    const tokens = row * seqLen + (end === lengths[row] ? seqLen : end);
    if (tokens < batch * seqLen) job.onProgress?.(tokens);
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

  /** Uploads a piece, has it run, and what comes of it mapped. */
  #submit(workspace: Workspace, passage: Passage, piece: Piece, nth: number): Submitted {
    const { handle } = this.#device;
    let bytes = 0;
    const submit = () => {
      const readback = workspace.readback(nth);
      uploadPiece(this.#device, passage, workspace, piece);
      const encoder = handle.createCommandEncoder();
      const bound = boundPorts(this.#device, passage, piece);
      copyInput(encoder, passage, workspace, piece, bound);
      workspace.encode(encoder, piece.segment, piece.isLast, passage.timeline.every > 1, bound);
      copyOutput(encoder, passage, workspace, piece, bound);
      for (const { area, floats } of resultsOf(passage, piece)) {
        encoder.copyBufferToBuffer(workspace.area(area), 0, readback, bytes, 4 * floats);
        bytes += 4 * floats;
      }
      handle.queue.submit([encoder.finish()]);
      return { readback, done: mapForReading(this.#device, readback, bytes) };
    };
    const { value, clean } = this.#device.scoped("running a model", submit);
    const done = blamePorts(passage.job.ports, Promise.all([value.done, clean]));
    done.catch(() => {}); // nobody looks at it if an earlier piece fails
    return { piece, done, readback: value.readback, bytes };
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

/** The longest that a segment may take, beyond the least deadline. */
export function slowestMs({ chunks }: Segment, { flopsPerToken, lift }: Layout): number {
  return chunks * (1 / SLOWEST_CHUNKS_PER_MS + (T * lift * flopsPerToken) / SLOWEST_FLOPS_PER_MS);
}
