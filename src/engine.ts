/**
 * The engine: it finds out what this machine has, makes layers and models, and runs their work on the backend that the
 * scheduler picks, falling back where that is allowed and never in silence.
 */
import { assemble, prepareParts, referenceStepper } from "./assemble.js";
import { awake } from "./awake.js";
import type { Backend, ForwardJob, Resident, Runner } from "./backend.js";
import type { BidirectionalLru } from "./bidirectional.js";
import { untilAborted } from "./breaker.js";
import type { Chain } from "./chain.js";
import { allocating, LinrecError } from "./errors.js";
import { Failover, isFault } from "./failover.js";
import { type BackendOption, callBack, type ProblemSize, readSize, sizeNames } from "./forwardOptions.js";
import { findHalves, halvesOf, waysOf } from "./hidden.js";
import type { Host, Prepared, Stepper } from "./host.js";
import { isBytes } from "./io/bytes.js";
import type { BytesSource } from "./io/load.js";
import { readSafetensors, type SafetensorsFile } from "./io/safetensors.js";
import { arrayClass, typeName } from "./io/tensor.js";
import { Lru } from "./lru.js";
import { type BackendStatus, Machine } from "./machine.js";
import { breathing } from "./macrotask.js";
import type { ModelSpec } from "./models/architecture.js";
import { copied, isPlain } from "./models/copied.js";
import { readLru } from "./models/lrnnxLru.js";
import { lruProgram } from "./models/lru.js";
import type { Model } from "./models/model.js";
import type { PlainLru, PlainTensors } from "./models/plain.js";
import { checkEngineOptions, type EngineOptions } from "./options.js";
import { parts } from "./parts.js";
import { type BackendName, type LruParams, lruFlops, type Network } from "./program.js";
import type { runReference } from "./reference.js";
import { choose, type Plan, type Preference, plan, type Verb, type Work } from "./scheduler.js";
import type { Run, SelfTestReport } from "./selfTest.js";
import { abortedError, Stop } from "./signal.js";
import { stateLayout } from "./state.js";
import { checkChoice, checkCount, checkOptions } from "./validate.js";
import { runAtOnce, workOf } from "./work.js";

/** One LRU: its own parameters, arrays of other kinds, or a checkpoint. */
export type LruSource = LruParams | PlainLru | BytesSource;

/** The sizes of some work, for {@link Engine.explain}. */
export interface Problem extends ProblemSize {
  /** Features of a token. */
  dModel: number;
  /** Complex states of a layer. */
  dState: number;
  /** LRU layers (1) */
  layers?: number;
}

/**
 * Makes an engine: finds out once what the machine has, and never rejects for want of a GPU or of threads.
 * Rejects with `invalid-argument` for options, with `backend-unavailable` if nothing that `backend` names can run here or
 * `simd: "relaxed"` is not to be had, and with `load-failed` if a part of linrec that is needed at once cannot be loaded.
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  const own = checkEngineOptions(options);
  const preference = toPreference(own.backend ?? "auto");
  const wanted = (name: BackendName) => preference === "auto" || preference.includes(name);
  const { onFallback } = own;
  const tell: Tell = (from, to, reason) =>
    onFallback && callBack("onFallback", onFallback, { from, to, reason });
  const machine = await awake(Machine.probe(own, wanted, (reason) => tell("wasm", "wasm", reason)));
  if (preference !== "auto") checkPreference(preference, machine, tell);
  else if (!machine.wasm) tell("wasm", "reference", machine.reason("wasm")); // each step, and what no GPU is faster at
  return new Engine(machine, preference, own.nonFinite ?? "propagate", tell);
}

/** Rejects a list of which nothing runs here, and tells what of it is passed over. */
function checkPreference(list: readonly BackendName[], machine: Machine, tell: Tell): void {
  const first = list.find((name) => machine.names.includes(name));
  if (first === undefined) throw noBackend(list, machine);
  for (const name of list.slice(0, list.indexOf(first))) tell(name, first, machine.reason(name));
}

/** Of a list: "auto" finds the reference at least. */
function noBackend(names: Preference, machine: Machine): LinrecError {
  const list = names as readonly BackendName[];
  const reasons = list.map((name) => `${name}: ${machine.reason(name)}`).join("; ");
  return new LinrecError("backend-unavailable", `No backend that was asked for can run here. ${reasons}.`);
}

type Tell = (from: string, to: string, reason: string) => void;

/** Runs layers and models. Made by {@link createEngine}. */
export class Engine {
  readonly #machine: Machine;
  readonly #preference: Preference;
  readonly #tell: Tell;
  /** What layers and models see of the engine. */
  readonly #host: Host;
  /** One for each forward under way. */
  readonly #stops = new Set<Stop>();
  /** Loaded with the first model; a bare layer is never one. */
  #Chain: typeof Chain | undefined;
  #disposed = false;

  /** @internal Use {@link createEngine}. */
  constructor(machine: Machine, preference: Preference, nonFinite: "propagate" | "reject", tell: Tell) {
    this.#machine = machine;
    this.#preference = preference;
    this.#tell = tell;
    this.#host = {
      nonFinite,
      checkUsable: () => this.#checkUsable(),
      plan: (verb, program, ...sizes) => this.#plan(verb, workOf(this.#machine, program, ...sizes)),
      forward: (prepared, job, option) => this.#forward(prepared, job, option),
      gpuCache: async (prepared, batch, own) => {
        const resident = await this.#resident(prepared, batch);
        const { GpuCache } = await parts.webgpu();
        return new GpuCache(batch, resident, own);
      },
      steps: parts.steps,
      streams: parts.stream,
      release: (prepared) => this.#release(prepared),
    };
  }

  /** Each backend: whether it can run here, what was found, or why not and what would change that. */
  get backends(): Readonly<Record<BackendName, BackendStatus>> {
    const status = (name: BackendName) => this.#machine.status(name);
    return { reference: status("reference"), wasm: status("wasm"), webgpu: status("webgpu") };
  }

  /**
   * The `GPUDevice` on which "webgpu" runs here, for buffers that are to be x or `out`; undefined without one. Ask each time:
   * after a GPU was lost it is another. It is the engine's: do not destroy it.
   */
  get gpuDevice(): object | undefined {
    return this.#machine.gpuDevice;
  }

  /**
   * A layer from its parameters ({@link LruParams}, or arrays of other kinds under camelCase or snake_case names), or from a
   * .safetensors checkpoint that holds one lrnnx LRU. What is passed in is copied.
   * Rejects with `wrong-dtype`, `shape-mismatch`, `non-finite`, `unstable`, `detached`, `invalid-argument` for
   * parameters, with `malformed-file`, `unknown-model`, `unsupported`, `load-failed` for checkpoints, and with
   * `out-of-memory` and `disposed`.
   */
  async lru(source: LruSource): Promise<Lru> {
    this.#checkUsable();
    return this.#lru(await this.#readLru(source));
  }

  /**
   * A layer that reads each row from both ends, from what {@link lru} takes for either direction, of one dModel; or from a
   * .safetensors checkpoint with the tensors of both, under "forward." and "backward.", as `writeModel` writes it.
   * Rejects as {@link lru} does.
   */
  async bidirectional(
    source: { forward: LruSource; backward: LruSource } | BytesSource,
  ): Promise<BidirectionalLru> {
    this.#checkUsable();
    let given: SafetensorsFile | undefined;
    let made: [Network, Network] | undefined;
    if (isBytesSource(source)) given = await this.#load(source);
    else {
      checkOptions("bidirectional's layers", source, ["forward", "backward"]);
      made = await Promise.all([this.#readLru(source.forward), this.#readLru(source.backward)]);
    }
    const { BidirectionalLru, buildDirections, joined } = await parts.bidirectional();
    const [forward, backward] = made ?? buildDirections(given as SafetensorsFile);
    return new BidirectionalLru(await this.#lru(joined(forward, backward)));
  }

  /**
   * A model from a .safetensors checkpoint, or from an object or Map of arrays by the names of one. `spec` names its
   * architecture and options; it may be left out where the file's metadata has it or the tensors' names leave no doubt.
   * Rejects with `load-failed`, `malformed-file`, `wrong-dtype`, `detached`, `unsupported` for a source that cannot be read, with
   * `unknown-model`, `non-finite`, `unstable` for tensors that are not those of the architecture, with `invalid-argument` for
   * `spec` and for arrays that are no tensors, and with `out-of-memory` and `disposed`.
   */
  async model(source: BytesSource | PlainTensors, spec?: ModelSpec): Promise<Model> {
    this.#checkUsable();
    const loading = [
      isBytesSource(source) ? this.#load(source) : this.#readPlain(copied(source)),
      parts.models(),
      this.#widen(),
    ] as const;
    const [{ tensors, metadata }, { Chain, Model, buildProgram }] = await Promise.all(loading);
    this.#checkUsable(); // loading took a while
    this.#Chain = Chain;
    const program = buildProgram(tensors, metadata, spec);
    return new Model(this.#host, await this.#prepare(program));
  }

  /**
   * What would run a piece of work, why, and the predicted cost of every candidate.
   * Throws `invalid-argument`, `disposed`, and `backend-unavailable` if nothing that the engine was created for runs any more.
   */
  explain(verb: Verb, problem: Problem): Plan {
    this.#checkUsable();
    checkChoice("verb", verb, ["forward", "step"]);
    checkOptions("problem", problem, [...sizeNames, "dModel", "dState", "layers"]);
    const { batch, seqLen, timed } = readSize(problem);
    const { dModel, dState, layers = 1 } = problem;
    for (const [name, value] of Object.entries({ dModel, dState, layers })) checkCount(name, value, 1);
    return this.#plan(verb, {
      ...{ batch, seqLen, flopsPerToken: layers * lruFlops(dModel, dState), states: layers * dState },
      ...{ timed, bytesIn: 4 * dModel, bytesOut: 4 * dModel },
      ...this.#machine.passes({ dModel, dState, layers }, batch, seqLen, timed),
    });
  }

  /**
   * Runs every backend that is here against the float64 reference, and stops using one that is wrong. Takes a second or so.
   * Rejects with `disposed`, and with `load-failed` if it cannot be loaded; what a backend throws is in the report.
   */
  async selfTest(): Promise<SelfTestReport> {
    this.#checkUsable();
    const run: Run = async (program, job, name, threads) => {
      const prepared = await this.#prepare(program);
      try {
        await (await this.#runner(prepared, name)).forward({ ...job, threads });
      } finally {
        this.#release(prepared);
      }
    };
    await Promise.all([this.#machine.loadReference(), this.#widen()]);
    const { runSelfTest } = await parts.reference();
    const report = await runSelfTest(this.#machine.names, run, this.#machine.wasm?.threads ?? 0);
    for (const { backend, passed, name, reason } of report.results) {
      if (passed || backend === "reference") continue;
      this.#machine.giveUp(backend, `it failed the self-test "${name}": ${reason}`);
    }
    return report;
  }

  /**
   * Zeros in the engine's own memory: as x or `out` of a forward on the CPU they are not copied. It is the caller's until
   * {@link free}, or the engine's end. Throws `invalid-argument`, `out-of-memory` and `disposed`.
   */
  allocate(length: number): Float32Array {
    this.#checkUsable();
    checkCount("length", length, 0);
    const { wasm } = this.#machine;
    return allocating(`${length} numbers`, () => wasm?.allocate(length) ?? new Float32Array(length));
  }

  /** Gives an array of {@link allocate} back. Neither it nor a view of it may be used again. Any other array is left alone. */
  free(array: Float32Array): void {
    if (arrayClass(array) !== "Float32Array") {
      const came = typeName(array);
      throw new LinrecError("wrong-dtype", `free takes a Float32Array that allocate gave; got ${came}.`);
    }
    this.#machine.wasm?.free(array);
  }

  /** Ends workers and GPU work, and frees all memory. Work under way rejects with `disposed`. Idempotent. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const stop of this.#stops) stop.abort(disposedError());
    await this.#machine.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #checkUsable(): void {
    if (this.#disposed) throw disposedError();
  }

  /** Runs a forward where the plan says, and on what is next if that fails and may. */
  #forward(
    prepared: Prepared,
    job: Omit<ForwardJob, "threads">,
    option: BackendOption | undefined,
  ): Promise<void> | undefined {
    const { program } = prepared;
    const { batch, seqLen } = job;
    job.intact?.();
    const timed = this.#machine.valuesOf(job.timesteps);
    const here = option === undefined ? this.#preference : toPreference(option);
    const preference: Preference = job.ports ? ["webgpu"] : here;
    const hardware = this.#machine.hardware();
    let { asked } = prepared;
    if (
      asked?.preference !== preference ||
      asked.hardware !== hardware ||
      asked.work.batch !== batch ||
      asked.work.seqLen !== seqLen ||
      asked.work.timed !== timed
    ) {
      const work = workOf(this.#machine, program, batch, seqLen, timed);
      asked = { preference, hardware, work, candidate: choose("forward", work, hardware, preference) };
      prepared.asked = asked;
    }
    const { candidate } = asked;
    if (!candidate) throw noBackend(preference, this.#machine);
    if (candidate.backend === "wasm" && candidate.threads === 0) {
      const breathe = breathing();
      if (runAtOnce(prepared.stepper, program, job)) {
        job.onProgress?.(batch * seqLen);
        return breathe();
      }
    }
    const host = {
      machine: this.#machine,
      runner: (name: BackendName) => this.#runner(prepared, name),
      tell: this.#tell,
    };
    return this.#stoppable(prepared, job, new Failover(host, asked));
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

  async #resident(prepared: Prepared, slots: number): Promise<Resident> {
    const backend = this.#machine.backend("webgpu");
    try {
      const runner = await this.#runner(prepared, "webgpu");
      return (await runner.resident?.(slots)) as Resident; // the network is of one rate: it is the GPU's own runner
    } catch (error) {
      if (!isFault(error) || !(await this.#machine.renew(backend, error))) throw error;
      return this.#resident(prepared, slots);
    }
  }

  #release(prepared: Prepared): void {
    const error = new LinrecError("disposed", "The layer or model was disposed of while it was at work.");
    for (const stop of prepared.underWay.keys()) stop.abort(error);
    // The runners are needed until the work has noticed.
    Promise.allSettled(prepared.underWay.values()).then(async () => {
      for (const runner of prepared.runners.values()) (await runner.catch(() => undefined))?.dispose();
      prepared.runners.clear();
    });
  }

  #plan(verb: Verb, work: Work): Plan {
    const planned = plan(verb, work, this.#machine.hardware(), this.#preference);
    if (!planned) throw noBackend(this.#preference, this.#machine);
    return planned;
  }

  async #load(source: BytesSource): Promise<SafetensorsFile> {
    return readSafetensors(isBytes(source) ? source : await (await parts.sources()).loadBytes(source));
  }

  async #readPlain(source: PlainTensors): Promise<SafetensorsFile> {
    return { tensors: (await parts.sources()).toTensors(source), metadata: {} };
  }

  /** What a model needs of the CPU and a bare layer does not. */
  async #widen(): Promise<void> {
    const { wasm } = this.#machine;
    if (wasm) await (await parts.wide()).widen(wasm);
  }

  async #readLru(source: LruSource): Promise<Network> {
    if (isBytesSource(source)) return readLru(await this.#load(source));
    if (!isPlain(source)) return lruProgram(source as LruParams);
    const plain = copied(source);
    return (await parts.sources()).toLruProgram(plain);
  }

  async #lru(program: Network): Promise<Lru> {
    this.#checkUsable(); // loading took a while
    return new Lru(this.#host, await this.#prepare(program));
  }

  async #prepare(program: Network): Promise<Prepared> {
    await findHalves(program);
    this.#checkUsable();
    const runners = new Map<Backend, Promise<Runner>>();
    const backend = this.#machine.wasm;
    const wasm: (Runner & Stepper) | undefined =
      backend && !waysOf.has(program)
        ? assemble(program, false, this.#Chain, (part) =>
            allocating("a model's weights", () => backend.prepare(part)),
          )
        : undefined;
    if (backend && wasm) runners.set(backend, Promise.resolve(wasm));
    let oracle: Stepper | undefined;
    // Asked at every step: kernels that turn out to be wrong are not stepped with any more.
    const trusted = (): Stepper => {
      if (wasm && this.#machine.wasm) return wasm;
      const run = this.#machine.runReference as typeof runReference;
      oracle ??= assemble(program, true, this.#Chain, (part) => referenceStepper(part, run));
      return oracle;
    };
    const stepper: Stepper = {
      step: (...args) => trusted().step(...args),
      atOnce: (job) => wasm?.atOnce?.(job),
    };
    const layout = stateLayout(halvesOf(program)?.full ?? program);
    return { program, layout, runners, stepper, underWay: new Map() };
  }

  async #runner(prepared: Prepared, name: BackendName): Promise<Runner> {
    const { runners, program } = prepared;
    const backend = this.#machine.backend(name);
    if (!backend) throw noBackend([name], this.#machine);
    let runner = runners.get(backend);
    if (!runner) {
      // A GPU that failed has taken what was on it with it.
      for (const other of runners.keys()) if (other.name === name) runners.delete(other);
      runner = prepareParts(backend, program, this.#Chain);
      runners.set(backend, runner);
      runner.catch(() => runners.delete(backend));
    }
    return runner;
  }
}

/** A list is copied: what is known of it must stay true. */
function toPreference(option: BackendOption): Preference {
  return option === "auto" ? option : ([option].flat() as BackendName[]);
}

function isBytesSource(source: unknown): source is BytesSource {
  return typeof source === "string" || isBytes(source) || ["Blob", "File", "URL"].includes(typeName(source));
}

function disposedError(): LinrecError {
  return new LinrecError("disposed", "The engine has been disposed of. Make a new one with createEngine().");
}
