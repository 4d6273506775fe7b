/**
 * The engine: it finds out what this machine has, makes layers and models, and runs their work on the backend that the
 * scheduler picks, falling back where that is allowed and never in silence.
 */
import type { Backend, ForwardJob, Runner } from "./backend.js";
import { Breaker, untilAborted } from "./breaker.js";
import { openWasm, type WasmBackend } from "./cpu/backend.js";
import type { Simd } from "./cpu/kernels.js";
import { sharedMemorySupport, threadCount } from "./environment.js";
import { isLinrecError, LinrecError, messageOf } from "./errors.js";
import { type BytesSource, loadBytes } from "./io/load.js";
import { readSafetensors } from "./io/safetensors.js";
import { Lru } from "./lru.js";
import type { ModelSpec } from "./models/architecture.js";
import { buildProgram } from "./models/build.js";
import { lruProgram } from "./models/lru.js";
import { Model } from "./models/model.js";
import { checkEngineOptions, type EngineOptions } from "./options.js";
import {
  type BackendName,
  flopsPerToken,
  inputWidth,
  type LruParams,
  outputWidth,
  type Program,
} from "./program.js";
import { type BackendOption, backendNames, type Host, type Prepared, type Stepper } from "./recurrent.js";
import { ReferenceBackend, runReference } from "./reference.js";
import { type Hardware, type Plan, type Preference, plan, type Verb, type Work } from "./scheduler.js";
import { runSelfTest, type SelfTestReport } from "./selfTest.js";
import type { State } from "./state.js";
import { checkChoice, checkCount, checkOptions, show } from "./validate.js";
import { openWebgpu, type WebgpuBackend } from "./webgpu/backend.js";

/** Whether a backend can run here. */
export interface BackendStatus {
  readonly available: boolean;
  /** In words: what was found; or why the backend is not available, and what would make it so. */
  readonly reason: string;
  /** Of "wasm": the build of the kernels, the most worker threads of a forward, and whether they share memory. */
  readonly simd?: Simd | "custom";
  readonly threads?: number;
  readonly sharedMemory?: boolean;
  /** Of "webgpu": the GPU's name, and whether it is the CPU in disguise. */
  readonly adapter?: string;
  readonly software?: boolean;
}

/** The sizes of some work, for {@link Engine.explain}. */
export interface Problem {
  /** 1 */
  batch?: number;
  /** 1 for a step */
  seqLen?: number;
  dModel: number;
  dState: number;
  /** LRU layers (1) */
  layers?: number;
}

/** Makes an engine: probes the machine once, and never rejects for want of a GPU or of threads. */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  checkEngineOptions(options);
  const engine = new Engine(options);
  await engine.open();
  return engine;
}

/** Runs layers and models. Made by {@link createEngine}. */
export class Engine {
  readonly #options: EngineOptions;
  readonly #preference: Preference;
  readonly #available = new Map<BackendName, Backend>([["reference", new ReferenceBackend()]]);
  readonly #unavailable = new Map<BackendName, string>();
  readonly #breaker = new Breaker();
  /** What layers and models see of the engine. */
  readonly #host: Host;
  #wasm: WasmBackend | undefined;
  #webgpu: WebgpuBackend | undefined;
  #rates = { wasm: 0, gpu: 0, roundTripMs: 0 };
  #disposed = false;

  /** @internal Use {@link createEngine}. */
  constructor(options: EngineOptions) {
    this.#options = options;
    this.#preference = toPreference(options.backend ?? "auto");
    this.#host = {
      nonFinite: options.nonFinite ?? "propagate",
      checkUsable: () => this.#checkUsable(),
      plan: (verb, program, batch, seqLen) =>
        this.#choose(verb, workOf(program, batch, seqLen), this.#preference, new Set()),
      forward: (prepared, job, option) => this.#forward(prepared, job, option),
      release: (prepared) => this.#release(prepared),
    };
  }

  /** @internal Probes the backends that may be wanted. */
  async open(): Promise<void> {
    const wanted = (name: BackendName) => this.#preference === "auto" || this.#preference.includes(name);
    const unwanted = `it was not looked for: the engine was created with backend ${show(this.#options.backend)}`;
    // Steps run on the calling thread whatever the backend, so WASM is opened for a GPU's engine too.
    if (wanted("wasm") || wanted("webgpu")) await this.#openWasm();
    else this.#unavailable.set("wasm", unwanted);
    if (wanted("webgpu")) await this.#openWebgpu();
    else this.#unavailable.set("webgpu", unwanted);
    if (this.#preference === "auto") return;
    const list = this.#preference;
    const first = list.find((name) => this.#available.has(name));
    const reasons = list
      .filter((name) => name !== first)
      .map((name) => `${name}: ${this.#unavailable.get(name) ?? "available"}`);
    if (first === undefined)
      throw new LinrecError(
        "backend-unavailable",
        `No backend that was asked for can run here. ${reasons.join("; ")}.`,
      );
    const skipped = list.slice(0, list.indexOf(first));
    for (const name of skipped) this.#tell(name, first, this.#unavailable.get(name) ?? "");
  }

  /** Each backend: whether it can run here, what was found, or why not and what would change that. */
  get backends(): Readonly<Record<BackendName, BackendStatus>> {
    const status = (name: BackendName): BackendStatus => {
      if (!this.#available.has(name)) return { available: false, reason: this.#unavailable.get(name) ?? "" };
      if (name === "wasm") return wasmStatus(this.#wasm as WasmBackend, this.#rates.wasm);
      if (name === "webgpu") return webgpuStatus(this.#webgpu as WebgpuBackend);
      return { available: true, reason: "float64, plain TypeScript: for checking" };
    };
    return { reference: status("reference"), wasm: status("wasm"), webgpu: status("webgpu") };
  }

  /**
   * A layer from its parameters, or from a .safetensors checkpoint that holds one lrnnx LRU. What is passed in is copied.
   * Rejects with `wrong-dtype`, `shape-mismatch`, `non-finite`, `unstable`, `detached`, `invalid-argument` for
   * parameters, with `malformed-file`, `unknown-model`, `load-failed` for checkpoints.
   */
  async lru(source: LruParams | BytesSource): Promise<Lru> {
    this.#checkUsable();
    const program = isBytesSource(source)
      ? await this.#read(source, { architecture: "lrnnx/lru" })
      : lruProgram(source);
    return new Lru(this.#host, await this.#prepare(program));
  }

  /**
   * A model from a .safetensors checkpoint. `spec` names its architecture and options; it may be left out where the
   * file's metadata has it or the tensors' names leave no doubt.
   */
  async model(source: BytesSource, spec?: ModelSpec): Promise<Model> {
    this.#checkUsable();
    return new Model(this.#host, await this.#prepare(await this.#read(source, spec)));
  }

  /** What would run a piece of work, why, and the predicted cost of every candidate. */
  explain(verb: Verb, problem: Problem): Plan {
    this.#checkUsable();
    checkChoice("verb", verb, ["forward", "step"]);
    checkOptions("problem", problem, ["batch", "seqLen", "dModel", "dState", "layers"]);
    const { batch = 1, seqLen = 1, dModel, dState, layers = 1 } = problem;
    for (const [name, value] of Object.entries({ batch, seqLen, dModel, dState, layers })) {
      checkCount(name, value, name === "batch" || name === "seqLen" ? 0 : 1);
    }
    const flops = layers * (8 * dModel * dState + 8 * dState + 2 * dModel);
    return this.#choose(
      verb,
      { batch, seqLen, flopsPerToken: flops, bytesPerToken: 8 * dModel },
      this.#preference,
      new Set(),
    );
  }

  /** Runs every backend that is here against the float64 reference, and stops using one that is wrong. Takes a second or so. */
  async selfTest(): Promise<SelfTestReport> {
    this.#checkUsable();
    const report = await runSelfTest(
      [...this.#available.keys()],
      async (program, job, backend, threads) => {
        const prepared = await this.#prepare(program);
        try {
          return await (await this.#runner(prepared, backend)).forward({ ...job, threads });
        } finally {
          this.#release(prepared);
        }
      },
      this.#wasm?.threads ?? 0,
    );
    for (const { backend, passed, name, error, limit } of report.results) {
      if (passed || backend === "reference") continue;
      this.#giveUp(
        backend,
        `it failed the self-test "${name}" (error ${error.toExponential(1)}, limit ${limit.toExponential(1)})`,
      );
    }
    return report;
  }

  /** Zeros in the engine's own memory: as x or `out` of a forward on the CPU they are not copied. Freed when collected. */
  allocate(length: number): Float32Array {
    this.#checkUsable();
    checkCount("length", length, 0);
    return this.#wasm?.allocate(length) ?? new Float32Array(length);
  }

  /** Ends workers and GPU work, and frees all memory. Work under way rejects with `disposed`. Idempotent. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#breaker.break(disposedError());
    for (const backend of this.#available.values()) await backend.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #checkUsable(): void {
    if (this.#disposed) throw disposedError();
  }

  /** Runs a forward where the plan says, and on what is next if that fails and may. Fulfils with the final state. */
  async #forward(
    prepared: Prepared,
    job: Omit<ForwardJob, "threads">,
    option: BackendOption | undefined,
  ): Promise<State> {
    const preference = this.#preferenceFor(option);
    const demanded = preference !== "auto" && preference.length === 1;
    const work = workOf(prepared.program, job.batch, job.seqLen);
    const failed = new Set<BackendName>();
    for (;;) {
      const { backend, threads } = this.#choose("forward", work, preference, failed);
      const attempt = { ...job, state: job.state.clone(), threads };
      try {
        await this.#settle(prepared, this.#run(prepared, backend, attempt), job.signal);
        return attempt.state;
      } catch (error) {
        if (demanded || !this.#mayRunElsewhere(error, backend)) throw error;
        failed.add(backend);
        if (backend === "webgpu") this.#giveUp(backend, messageOf(error));
        const next = this.#choose("forward", work, preference, failed, error);
        this.#tell(backend, next.backend, messageOf(error));
      }
    }
  }

  #release(prepared: Prepared): void {
    prepared.breaker.break(
      new LinrecError("disposed", "The layer or model was disposed of while it was at work."),
    );
    Promise.allSettled(prepared.underWay).then(async () => {
      for (const runner of prepared.runners.values()) (await runner.catch(() => undefined))?.dispose();
      prepared.runners.clear();
    });
  }

  async #openWasm(): Promise<void> {
    const { simd = "auto", threads = "auto", workerUrl, wasm } = this.#options;
    try {
      const onTrouble = (reason: string) => this.#tell("wasm", "wasm", reason);
      const common = { simd, workerUrl, wasm, onTrouble, sharedMemory: sharedMemorySupport().available };
      this.#wasm = await openWasm({ ...common, threads: await threadCount(threads) });
      this.#rates.wasm = this.#wasm.measure();
      this.#available.set("wasm", this.#wasm);
    } catch (error) {
      this.#unavailable.set("wasm", messageOf(error));
      if (isLinrecError(error) && simd === "relaxed") throw error; // asked for by name
    }
  }

  async #openWebgpu(): Promise<void> {
    const opened = await openWebgpu(this.#options.gpu);
    if ("reason" in opened) {
      this.#unavailable.set("webgpu", opened.reason);
      return;
    }
    this.#webgpu = opened.backend;
    this.#available.set("webgpu", opened.backend);
    // A software adapter is never chosen for its speed, so there is nothing to measure.
    if (opened.backend.software) return;
    const { roundTripMs, flopsPerSecond } = await opened.backend.measure();
    this.#rates = { ...this.#rates, roundTripMs, gpu: flopsPerSecond / 1000 };
  }

  #hardware(failed: ReadonlySet<BackendName>): Hardware {
    const here = (name: BackendName) => this.#available.has(name) && !failed.has(name);
    const { compiled, threads = 0, noThreads } = this.#wasm ?? {};
    const threadsDemanded = typeof this.#options.threads === "number" && this.#options.threads > 0;
    const wasm = { threads, threadsReason: noThreads, threadsDemanded, flopsPerMs: this.#rates.wasm };
    const webgpu = {
      software: this.#webgpu?.software ?? false,
      roundTripMs: this.#rates.roundTripMs,
      flopsPerMs: this.#rates.gpu,
    };
    const unavailable = new Map([
      ...this.#unavailable,
      ...[...failed].map((name) => [name, "it failed"] as const),
    ]);
    return {
      wasm: compiled && here("wasm") ? wasm : undefined,
      webgpu: here("webgpu") ? webgpu : undefined,
      unavailable,
    };
  }

  #choose(
    verb: Verb,
    work: Work,
    preference: Preference,
    failed: ReadonlySet<BackendName>,
    cause?: unknown,
  ): Plan {
    const chosen = plan(verb, work, this.#hardware(failed), preference);
    if (chosen) return chosen;
    if (cause) throw cause;
    const names = preference === "auto" ? backendNames : preference;
    const reasons = names.map((name) => `${name}: ${this.#unavailable.get(name) ?? "it failed"}`);
    throw new LinrecError(
      "backend-unavailable",
      `No backend that was asked for can run here. ${reasons.join("; ")}.`,
    );
  }

  #preferenceFor(option: BackendOption | undefined): Preference {
    return option === undefined ? this.#preference : toPreference(option);
  }

  async #read(source: BytesSource, spec: ModelSpec | undefined): Promise<Program> {
    const { tensors, metadata } = readSafetensors(await loadBytes(source));
    this.#checkUsable(); // loading took a while
    return buildProgram(tensors, metadata, spec);
  }

  async #prepare(program: Program): Promise<Prepared> {
    const runners = new Map<BackendName, Promise<Runner>>();
    const wasm = this.#wasm?.prepare(program);
    if (wasm) runners.set("wasm", Promise.resolve(wasm));
    const onlyReference =
      this.#preference !== "auto" && this.#preference.every((name) => name === "reference");
    const stepper = wasm && !onlyReference ? wasm : referenceStepper(program);
    return { program, runners, stepper, breaker: new Breaker(), underWay: new Set() };
  }

  async #runner(prepared: Prepared, name: BackendName): Promise<Runner> {
    let runner = prepared.runners.get(name);
    if (!runner) {
      runner = Promise.resolve((this.#available.get(name) as Backend).prepare(prepared.program));
      prepared.runners.set(name, runner);
      runner.catch(() => prepared.runners.delete(name));
    }
    return runner;
  }

  async #run(prepared: Prepared, backend: BackendName, job: ForwardJob): Promise<void> {
    await (await this.#runner(prepared, backend)).forward(job);
  }

  /** Settles as the work does, or at once when it is aborted or disposed of; the work itself may go on for a moment. */
  #settle(prepared: Prepared, work: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
    prepared.underWay.add(work);
    work.catch(() => {}).finally(() => prepared.underWay.delete(work));
    const aborted = () =>
      new LinrecError("aborted", "The forward was stopped by its AbortSignal.", { cause: signal?.reason });
    return this.#breaker.watch(prepared.breaker.watch(untilAborted(work, signal, aborted)));
  }

  /** Whether another backend may do what one could not: not where the caller stopped the work. */
  #mayRunElsewhere(error: unknown, backend: BackendName): boolean {
    if (!isLinrecError(error)) return true;
    // A backend that was given up while this work was under way rejects it with `disposed`, though nothing else was.
    if (error.code === "disposed") return !this.#disposed && !this.#available.has(backend);
    return error.code !== "aborted";
  }

  /** Stops using a backend. */
  #giveUp(name: BackendName, reason: string): void {
    this.#available.get(name)?.dispose();
    this.#available.delete(name);
    this.#unavailable.set(name, reason);
  }

  #tell(from: string, to: string, reason: string): void {
    this.#options.onFallback?.({ from, to, reason });
  }
}

function wasmStatus({ compiled, threads, noThreads }: WasmBackend, flopsPerMs: number): BackendStatus {
  const memory = compiled.shared ? "threads share memory" : sharedMemorySupport().reason;
  const pool =
    noThreads ?? (threads === 0 ? "calling thread only" : `up to ${threads} worker threads; ${memory}`);
  const reason = `${compiled.simd} SIMD, ${(flopsPerMs / 1e6).toFixed(0)} GFLOP/s on one thread; ${pool}`;
  return { available: true, reason, simd: compiled.simd, threads, sharedMemory: compiled.shared };
}

function webgpuStatus({ adapter, software }: WebgpuBackend): BackendStatus {
  return {
    available: true,
    reason: software ? `${adapter} (software: never chosen for speed)` : adapter,
    adapter,
    software,
  };
}

function toPreference(option: BackendOption): Preference {
  return typeof option === "string" ? (option === "auto" ? option : [option]) : option;
}

function workOf(program: Program, batch: number, seqLen: number): Work {
  return {
    batch,
    seqLen,
    flopsPerToken: flopsPerToken(program),
    bytesPerToken: 4 * (inputWidth(program) + outputWidth(program)),
  };
}

function isBytesSource(source: unknown): source is BytesSource {
  if (typeof source === "string" || ArrayBuffer.isView(source)) return true;
  const tag = Object.prototype.toString.call(source).slice(8, -1);
  return ["ArrayBuffer", "SharedArrayBuffer", "Blob", "File", "URL"].includes(tag);
}

function disposedError(): LinrecError {
  return new LinrecError("disposed", "The engine has been disposed of. Make a new one with createEngine().");
}

/** Where there is no WASM, or only the reference was asked for. */
function referenceStepper(program: Program): Stepper {
  return {
    step(x, y, state) {
      const result = runReference(program, { x, batch: state.batch, seqLen: 1, state });
      y.set(result.y);
      state.copyFrom(result.state);
    },
  };
}
