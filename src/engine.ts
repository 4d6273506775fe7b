/** The engine, as its user has it: what finds out what this machine has, and makes layers and models. */
import { EngineHost } from "./engine/engineHost.js";
import type { Tell } from "./engine/failover.js";
import { type BackendStatus, Machine } from "./engine/machine.js";
import { checkEngineOptions, type EngineOptions } from "./engine/options.js";
import type { Run, SelfTestReport } from "./engine/selfTest.js";
import { allocating, LinrecError } from "./errors.js";
import { isBytes } from "./io/bytes.js";
import type { BytesSource } from "./io/load.js";
import { readSafetensors, type SafetensorsFile } from "./io/safetensors.js";
import type { BidirectionalLru } from "./layers/bidirectional.js";
import { callBack, type ProblemSize, readSize, sizeNames, toPreference } from "./layers/forwardOptions.js";
import { Lru } from "./lru.js";
import { lruProgram } from "./lruParams.js";
import type { ModelSpec } from "./models/architecture.js";
import { copied, isPlain } from "./models/copied.js";
import { readLru } from "./models/lrnnxLru.js";
import type { Model } from "./models/model.js";
import type { PlainLru, PlainTensors } from "./models/plain.js";
import { parts } from "./parts.js";
import { type BackendName, type LruParams, lruFlops, type Network } from "./program.js";
import { awake } from "./runtime/awake.js";
import type { Plan, Verb } from "./scheduler.js";
import { arrayClass, typeName } from "./tensor.js";
import { checkChoice, checkCount, checkOptions } from "./validate.js";

/** One LRU: its own parameters, arrays of other kinds, or a checkpoint. */
export type LruSource = LruParams | PlainLru | BytesSource;

/** The sizes of some work, for {@link Engine.explain}. */
export interface Problem extends ProblemSize {
  /** Features of a token. */
  dModel: number;
  /** Complex states of a layer. */
  dState: number;
  /** LRU layers (1) */
  layers?: number | undefined;
}

/**
 * Makes an engine: finds out once what the machine has, and never rejects for want of a GPU or of threads.
 * Rejects with `invalid-argument` for options, with `backend-unavailable` if nothing that `backend` names can run here or
 * `simd: "relaxed"` is not to be had, with `load-failed` if a part of linrec that is needed at once cannot be loaded, and with
 * `aborted` if `onFallback` throws.
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  const own = checkEngineOptions(options);
  const preference = toPreference(own.backend ?? "auto");
  const wanted = (name: BackendName) => preference === "auto" || preference.includes(name);
  const { onFallback, nonFinite = "propagate" } = own;
  const tell: Tell = (from, to, reason) =>
    onFallback && callBack("onFallback", onFallback, { from, to, reason });
  const machine = await awake(Machine.probe(own, wanted, (reason) => tell("wasm", "wasm", reason)));
  if (preference !== "auto") checkPreference(preference, machine, tell);
  else if (!machine.wasm) tell("wasm", "reference", machine.reason("wasm")); // each step, and what no GPU is faster at
  return new Engine(machine, new EngineHost(machine, preference, nonFinite, tell));
}

/** Rejects a list of which nothing runs here, and tells what of it is passed over. */
function checkPreference(list: readonly BackendName[], machine: Machine, tell: Tell): void {
  const first = list.find((name) => machine.names.includes(name));
  if (first === undefined) throw machine.noBackend(list);
  for (const name of list.slice(0, list.indexOf(first))) tell(name, first, machine.reason(name));
}

/** Runs layers and models. Made by {@link createEngine}. */
export class Engine {
  readonly #machine: Machine;
  readonly #host: EngineHost;

  /** @internal Use {@link createEngine}. */
  constructor(machine: Machine, host: EngineHost) {
    this.#machine = machine;
    this.#host = host;
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
    this.#host.checkUsable();
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
    this.#host.checkUsable();
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
    this.#host.checkUsable();
    const own = copied(spec); // its owner may go on
    const loading = [
      isBytesSource(source) ? this.#load(source) : this.#readPlain(copied(source)),
      parts.models(),
      this.#widen(),
    ] as const;
    const [{ tensors, metadata }, { Chain, Model, buildProgram }] = await Promise.all(loading);
    this.#host.checkUsable(); // loading took a while
    const program = buildProgram(tensors, metadata, own);
    return new Model(this.#host, await this.#host.prepare(program, Chain));
  }

  /**
   * What would run a piece of work, why, and the predicted cost of every candidate.
   * Throws `invalid-argument`, `disposed`, and `backend-unavailable` if nothing that the engine was created for runs any more.
   */
  explain(verb: Verb, problem: Problem): Plan {
    this.#host.checkUsable();
    checkChoice("verb", verb, ["forward", "step"]);
    checkOptions("problem", problem, [...sizeNames, "dModel", "dState", "layers"]);
    const { batch, seqLen, timed } = readSize(problem);
    const { dModel, dState, layers = 1 } = problem;
    for (const [name, value] of Object.entries({ dModel, dState, layers })) checkCount(name, value, 1);
    return this.#host.planWork(verb, {
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
    this.#host.checkUsable();
    const run: Run = async (program, job, name, threads) => {
      const prepared = await this.#host.prepare(program);
      try {
        await (await this.#host.runner(prepared, name)).forward({ ...job, threads });
      } finally {
        this.#host.release(prepared);
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
    this.#host.checkUsable();
    checkCount("length", length, 0);
    const { wasm } = this.#machine;
    return allocating(`${length} numbers`, () => wasm?.allocate(length) ?? new Float32Array(length));
  }

  /**
   * Gives an array of {@link allocate} back. Neither it nor a view of it may be used again. Any other array is left
   * alone. Throws `wrong-dtype` for what is no Float32Array.
   */
  free(array: Float32Array): void {
    if (arrayClass(array) !== "Float32Array") {
      const came = typeName(array);
      throw new LinrecError("wrong-dtype", `free takes a Float32Array that allocate gave; got ${came}.`);
    }
    this.#machine.wasm?.free(array);
  }

  /** Ends workers and GPU work, and frees all memory. Work under way rejects with `disposed`. Idempotent. */
  async dispose(): Promise<void> {
    await this.#host.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
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
    this.#host.checkUsable(); // loading took a while
    return new Lru(this.#host, await this.#host.prepare(program));
  }
}

function isBytesSource(source: unknown): source is BytesSource {
  return typeof source === "string" || isBytes(source) || ["Blob", "File", "URL"].includes(typeName(source));
}
