/** What layers and models see of their engine: where programs are prepared, and work is run, and stopped. */
import type { Backend, ForwardJob, Resident, Runner } from "../backend.js";
import { allocating, LinrecError } from "../errors.js";
import type { AnyCache } from "../layers/cache.js";
import { type BackendOption, toPreference } from "../layers/forwardOptions.js";
import type { CacheOwner, GpuCache } from "../layers/gpuCache.js";
import { assemble, prepareParts, referenceStepper } from "../networks/assemble.js";
import { findHalves, halvesOf, waysOf } from "../networks/hidden.js";
import { parts } from "../parts.js";
import type { BackendName, Network } from "../program.js";
import type { runReference } from "../reference.js";
import { untilAborted } from "../runtime/breaker.js";
import { breathing } from "../runtime/macrotask.js";
import { abortedError, Stop } from "../runtime/signal.js";
import { choose, type Plan, type Preference, plan, type Verb, type Work } from "../scheduler.js";
import { stateLayout } from "../state.js";
import { Failover, isFault, type Tell } from "./failover.js";
import type { Asked, Host, Prepared, Stepper } from "./host.js";
import type { Machine } from "./machine.js";
import type { NonFinite } from "./options.js";
import { runAtOnce, workOf } from "./work.js";

export class EngineHost implements Host {
  readonly nonFinite: NonFinite;
  readonly #machine: Machine;
  readonly #preference: Preference;
  readonly #tell: Tell;
  /** One for each forward under way. */
  readonly #stops = new Set<Stop>();

  constructor(machine: Machine, preference: Preference, nonFinite: NonFinite, tell: Tell) {
    this.#machine = machine;
    this.#preference = preference;
    this.nonFinite = nonFinite;
    this.#tell = tell;
  }

  checkUsable(): void {
    if (this.#machine.disposed) throw disposedError();
  }

  plan(verb: Verb, program: Network, batch: number, seqLen: number, timed?: number): Plan {
    return this.planWork(verb, workOf(this.#machine, program, batch, seqLen, timed));
  }

  planWork(verb: Verb, work: Work): Plan {
    const planned = plan(verb, work, this.#machine.hardware(), this.#preference);
    if (!planned) throw this.#machine.noBackend(this.#preference);
    return planned;
  }

  /** @param chain what runs a network whose rate changes: it comes with the first model */
  async prepare(program: Network, chain?: Prepared["chain"]): Promise<Prepared> {
    await findHalves(program);
    this.checkUsable();
    const runners = new Map<Backend, Promise<Runner>>();
    const backend = this.#machine.wasm;
    const wasm: (Runner & Stepper) | undefined =
      backend && !waysOf.has(program)
        ? assemble(program, false, chain, (part) =>
            allocating("a model's weights", () => backend.prepare(part)),
          )
        : undefined;
    if (backend && wasm) runners.set(backend, Promise.resolve(wasm));
    let oracle: Stepper | undefined;
    // Asked at every step: kernels that turn out to be wrong are not stepped with any more.
    const trusted = (): Stepper => {
      if (wasm && this.#machine.wasm) return wasm;
      const run = this.#machine.runReference as typeof runReference;
      oracle ??= assemble(program, true, chain, (part) => referenceStepper(part, run));
      return oracle;
    };
    const stepper: Stepper = {
      step: (...args) => trusted().step(...args),
      atOnce: (job) => wasm?.atOnce?.(job),
    };
    const layout = stateLayout(halvesOf(program)?.full ?? program);
    return { program, chain, layout, runners, stepper, underWay: new Map() };
  }

  /** The program as a backend runs it: made when first wanted. Rejects with `backend-unavailable` where it does not run any more. */
  async runner({ runners, program, chain }: Prepared, name: BackendName): Promise<Runner> {
    const backend = this.#machine.backend(name);
    if (!backend) throw this.#machine.noBackend([name]);
    let runner = runners.get(backend);
    if (!runner) {
      // A GPU that failed has taken what was on it with it.
      for (const other of runners.keys()) if (other.name === name) runners.delete(other);
      runner = prepareParts(backend, program, chain);
      runners.set(backend, runner);
      runner.catch(() => runners.delete(backend));
    }
    return runner;
  }

  forward(
    prepared: Prepared,
    job: Omit<ForwardJob, "threads">,
    option: BackendOption | undefined,
  ): Promise<void> | undefined {
    const { program, stepper } = prepared;
    job.intact?.();
    const asked = this.#ask(prepared, job, option);
    const { candidate } = asked;
    if (!candidate) throw this.#machine.noBackend(asked.preference);
    if (candidate.backend === "wasm" && candidate.threads === 0) {
      const breathe = breathing();
      if (runAtOnce(stepper, program, job)) {
        job.onProgress?.(job.batch * job.seqLen);
        return breathe();
      }
    }
    const runner = (name: BackendName) => this.runner(prepared, name);
    return this.#stoppable(prepared, job, new Failover(this.#machine, this.#tell, runner, asked));
  }

  /** What is to run a forward. What was asked last is not asked again. */
  #ask(
    prepared: Prepared,
    { batch, seqLen, timesteps, ports }: Omit<ForwardJob, "threads">,
    option: BackendOption | undefined,
  ): Asked {
    const timed = this.#machine.valuesOf(timesteps);
    const here = option === undefined ? this.#preference : toPreference(option);
    const preference: Preference = ports ? ["webgpu"] : here;
    const hardware = this.#machine.hardware();
    const { asked } = prepared;
    if (
      asked?.preference === preference &&
      asked.hardware === hardware &&
      asked.work.batch === batch &&
      asked.work.seqLen === seqLen &&
      asked.work.timed === timed
    )
      return asked;
    const work = workOf(this.#machine, prepared.program, batch, seqLen, timed);
    const candidate = choose(work, hardware, preference);
    prepared.asked = { preference, hardware, work, candidate };
    return prepared.asked;
  }

  /**
   * Rejects at once when the caller's signal fires, or the layer or the engine is disposed of; the backend then hears of
   * it through its own signal, and may go on for a moment.
   */
  async #stoppable(prepared: Prepared, job: Omit<ForwardJob, "threads">, failover: Failover): Promise<void> {
    const stop = new Stop();
    const abort = () => stop.abort(abortedError(job.signal));
    const onProgress = (done: number) => {
      if (!stop.aborted) job.onProgress?.(done);
    };
    job.signal?.addEventListener("abort", abort);
    this.#stops.add(stop);
    const work = failover.run(prepared.program, { ...job, signal: stop, onProgress }, stop);
    prepared.underWay.set(stop, work);
    work
      .finally(() => {
        prepared.underWay.delete(stop);
        this.#stops.delete(stop);
        job.signal?.removeEventListener("abort", abort);
      })
      .catch(() => {}); // told below; last, as a signal that is none of the platform's may throw
    await untilAborted(work, stop);
  }

  async gpuCache<Cache extends AnyCache>(
    prepared: Prepared,
    batch: number,
    own: CacheOwner<Cache>,
  ): Promise<GpuCache<Cache>> {
    const resident = await this.#resident(prepared, batch);
    const { GpuCache } = await parts.webgpu();
    return new GpuCache(batch, resident, own);
  }

  async #resident(prepared: Prepared, slots: number): Promise<Resident> {
    const backend = this.#machine.backend("webgpu");
    try {
      const runner = await this.runner(prepared, "webgpu");
      return (await runner.resident?.(slots)) as Resident; // the network is of one rate: it is the GPU's own runner
    } catch (error) {
      if (!isFault(error) || !(await this.#machine.renew(backend, error))) throw error;
      return this.#resident(prepared, slots);
    }
  }

  release(prepared: Prepared): void {
    const error = new LinrecError("disposed", "The layer or model was disposed of while it was at work.");
    for (const stop of prepared.underWay.keys()) stop.abort(error);
    // The runners are needed until the work has noticed.
    Promise.allSettled(prepared.underWay.values()).then(async () => {
      for (const runner of prepared.runners.values()) (await runner.catch(() => undefined))?.dispose();
      prepared.runners.clear();
    });
  }

  /** Ends all there is, for good: work under way rejects with `disposed`. */
  async dispose(): Promise<void> {
    if (this.#machine.disposed) return;
    for (const stop of this.#stops) stop.abort(disposedError());
    await this.#machine.dispose();
  }
}

function disposedError(): LinrecError {
  return new LinrecError("disposed", "The engine has been disposed of. Make a new one with createEngine().");
}
