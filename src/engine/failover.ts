/** Running a forward where the scheduler says, and what a backend leaves undone on what is next: never in silence. */
import type { Backend, ForwardJob, Runner } from "../backend.js";
import { allocating, asOutOfMemory, isLinrecError, messageOf } from "../errors.js";
import { parts } from "../parts.js";
import type { BackendName, Network } from "../program.js";
import { ratesOf } from "../rates.js";
import type { Stop } from "../runtime/signal.js";
import { type Candidate, choose } from "../scheduler.js";
import type { Asked } from "./host.js";
import type { Machine } from "./machine.js";

/** Says that work goes elsewhere, and why. */
export type Tell = (from: string, to: string, reason: string) => void;

/** One forward on its way. */
export class Failover {
  readonly #machine: Machine;
  readonly #tell: Tell;
  readonly #runner: (backend: BackendName) => Promise<Runner>;
  readonly #asked: Asked;
  readonly #failed = new Set<BackendName>();
  #candidate: Candidate | undefined;

  /** @param runner the program as a backend runs it. Rejects with `backend-unavailable` where it does not run any more. */
  constructor(machine: Machine, tell: Tell, runner: (backend: BackendName) => Promise<Runner>, asked: Asked) {
    this.#machine = machine;
    this.#tell = tell;
    this.#runner = runner;
    this.#asked = asked;
    this.#candidate = asked.candidate;
  }

  /** Advances job.state. Rejects with what the last backend failed with, or the reason of `stop`, a little late. */
  async run(network: Network, job: Omit<ForwardJob, "threads">, stop: Stop): Promise<void> {
    const { backend: name, threads } = this.#candidate as Candidate;
    const whole = { ...job, threads };
    const backend = this.#machine.backend(name);
    const done = job.done ?? allocating("a forward", () => new Int32Array(job.batch));
    const state = job.state.clone();
    try {
      const runner = await this.#runner(name);
      await runner.forward({ ...whole, state, done });
      job.state.copyFrom(state);
      return;
    } catch (error) {
      if (stop.aborted) throw stop.reason;
      job.intact?.(); // or no backend is to blame
      // An error of the caller's own callback stops the work as its signal does.
      if (isLinrecError(error) && error.code === "aborted") throw error;
      await this.#leave(backend, name, error, job.ports !== undefined);
    }
    // Work that is stopped meanwhile is stopped by the next backend, before it begins.
    if (ratesOf(network)) {
      job.state.copyFrom(state);
      return this.run(network, { ...job, done }, stop);
    }
    // Only a GPU leaves forwards half done.
    if (done.every((tokens) => tokens === 0)) return this.run(network, job, stop);
    const { restsOf } = await parts.webgpu();
    for (const rest of restsOf(network, whole, done, state)) {
      await this.run(network, rest.job, stop);
      for (let i = 0; i < rest.job.batch; i++) state.copyRow(rest.row + i, rest.job.state, i);
    }
    job.state.copyFrom(state);
  }

  /**
   * Goes on: on the GPU, if it failed and could be opened anew, else on the next candidate. Throws if there is none, or if x or y
   * was on that GPU.
   */
  async #leave(
    backend: Backend | undefined,
    name: BackendName,
    error: unknown,
    isPort: boolean,
  ): Promise<void> {
    const reason = messageOf(error);
    if (backend && name === "webgpu" && isFault(error) && (await this.#machine.renew(backend, error))) {
      const rest = isPort ? "its GPUBuffers are gone" : "the forward goes on there";
      this.#tell(name, name, `${reason} The GPU was opened anew, and ${rest}.`);
      if (isPort) throw error;
      return;
    }
    const { preference, work } = this.#asked;
    if (preference !== "auto" && preference.length === 1) throw asOutOfMemory("a forward", error);
    this.#failed.add(name);
    const hardware = this.#machine.hardware(this.#failed);
    this.#candidate = choose(work, hardware, preference);
    if (!this.#candidate) throw asOutOfMemory("a forward", error);
    this.#tell(name, this.#candidate.backend, reason);
  }
}

/** The GPU itself is to blame, not what was asked of it. */
export function isFault(error: unknown): boolean {
  if (error instanceof RangeError) return false;
  return !isLinrecError(error) || error.code === "gpu-failed" || error.code === "timeout";
}
