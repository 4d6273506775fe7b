/** What this machine has: the backends that run here, why the others do not, and how fast they are. */
import type { Backend, Passes } from "../backend.js";
import { openWasm, type WasmBackend } from "../cpu/backend.js";
import type { Simd } from "../cpu/kernels.js";
import { isLinrecError, LinrecError, messageOf, unended } from "../errors.js";
import { parts } from "../parts.js";
import type { BackendName } from "../program.js";
import type { runReference } from "../reference.js";
import { noWorkers, sharedMemorySupport, threadCount } from "../runtime/environment.js";
import { findGpu } from "../runtime/findGpu.js";
import type { Hardware, Preference } from "../scheduler.js";
import type { Gpu, GpuHost } from "./gpu.js";
import type { EngineOptions } from "./options.js";

/** Whether a backend can run here. */
export interface BackendStatus {
  /** Whether it can run here, and is trusted: `selfTest` or a fault may have put an end to that. */
  readonly available: boolean;
  /** In words: what was found; or why the backend is not available, and what would make it so. */
  readonly reason: string;
  /** Of "wasm": the build of the kernels; "custom" if the option `wasm` gave them. */
  readonly simd?: Simd | "custom";
  /** Of "wasm": the most worker threads of a forward. */
  readonly threads?: number;
  /** Of "wasm": whether they share memory; else they exchange messages. */
  readonly sharedMemory?: boolean;
  /** Of "webgpu": the GPU's name. */
  readonly adapter?: string;
  /** Of "webgpu": whether it is the CPU in disguise. */
  readonly software?: boolean;
}

/** The oracle, whose code is loaded when it first has something to do. An engine's end stops its forwards by their signals. */
const reference: Backend = {
  name: "reference",
  prepare: async (program) => new (await parts.reference()).ReferenceBackend().prepare(program),
  dispose() {},
};

export class Machine implements GpuHost {
  readonly #options: EngineOptions;
  readonly #backends = new Map<BackendName, Backend>([["reference", reference]]);
  readonly #unavailable = new Map<BackendName, string>();
  /** Loaded before it can be needed for a step, which does not wait. */
  runReference: typeof runReference | undefined;
  #wasm: WasmBackend | undefined;
  #gpu: Gpu | undefined;
  disposed = false;
  /** What {@link hardware} said last of all backends, as long as that is so. */
  #hardware: Hardware | undefined;

  private constructor(options: EngineOptions) {
    this.#options = options;
  }

  /**
   * Probes the backends that are wanted. WASM is opened for a GPU's engine too: steps run on the calling thread.
   * @param onTrouble told when threads cannot be had, or work of theirs had to be run again
   */
  static async probe(
    options: EngineOptions,
    wanted: (name: BackendName) => boolean,
    onTrouble: (reason: string) => void,
  ): Promise<Machine> {
    const machine = new Machine(options);
    const unwanted = `it was not looked for: the engine was created with backend ${JSON.stringify(options.backend)}`;
    const webgpu = wanted("webgpu") && findWebgpu(options.gpu); // what it loads comes in while WASM is compiled
    if (wanted("wasm") || webgpu) await machine.#openWasm(onTrouble);
    else machine.#unavailable.set("wasm", unwanted);
    if (webgpu) await machine.#openWebgpu(webgpu);
    else machine.#unavailable.set("webgpu", unwanted);
    if (!machine.#wasm) await machine.loadReference();
    return machine;
  }

  async loadReference(): Promise<void> {
    this.runReference = (await parts.reference()).runReference;
  }

  /** The backends that run here. */
  get names(): BackendName[] {
    return [...this.#backends.keys()];
  }

  /** The CPU's kernels, while they can be trusted. */
  get wasm(): WasmBackend | undefined {
    return this.#backends.has("wasm") ? this.#wasm : undefined;
  }

  get gpuDevice(): object | undefined {
    return this.#backends.has("webgpu") ? this.#gpu?.handle : undefined;
  }

  /** What the price of a GPU is of, where there is one. */
  passes(...work: Parameters<Gpu["passes"]>): Passes | undefined {
    return this.#gpu?.passes(...work);
  }

  /** How many values timesteps have, as far as a price is of it: 0 where there are none. */
  valuesOf(timesteps: Float32Array | undefined): number {
    return this.#gpu?.valuesOf(timesteps) ?? (timesteps ? 1 : 0);
  }

  backend(name: BackendName): Backend | undefined {
    return this.#backends.get(name);
  }

  /** Why a backend does not run here. */
  reason(name: BackendName): string {
    return this.#unavailable.get(name) ?? "it failed";
  }

  /** The error of asking for what does not run here: a list, for "auto" finds the reference at least. */
  noBackend(names: Preference): LinrecError {
    const list = names as readonly BackendName[];
    const reasons = list.map((name) => `${name}: ${unended(this.reason(name))}`).join("; ");
    return new LinrecError("backend-unavailable", `No backend that was asked for can run here. ${reasons}.`);
  }

  status(name: BackendName): BackendStatus {
    if (!this.#backends.has(name)) return { available: false, reason: this.reason(name) };
    if (this.#wasm && name === "wasm") return wasmStatus(this.#wasm);
    if (this.#gpu && name === "webgpu") return this.#gpu.status;
    return { available: true, reason: "float64, plain TypeScript: for checking" };
  }

  /** What the scheduler needs to know, but for the backends in `failed`: the same object while it is the same. */
  hardware(failed?: ReadonlySet<BackendName>): Hardware {
    const known = failed ? undefined : this.#hardware;
    const { threads, hopMs, flopsPerMs } = known?.wasm ?? {};
    const same = this.#wasm?.threads === threads && this.#wasm?.hopMs === hopMs;
    if (known && same && this.#wasm?.measure() === flopsPerMs) return known;
    const here = (name: BackendName) => this.#backends.has(name) && !failed?.has(name);
    const unavailable = new Map(this.#unavailable);
    for (const name of failed ?? []) unavailable.set(name, "it failed");
    const wasm = here("wasm") &&
      this.#wasm && {
        threads: this.#wasm.threads,
        threadsReason: this.#wasm.noThreads,
        threadsDemanded: typeof this.#options.threads === "number" && this.#options.threads > 0,
        shared: this.#wasm.shared,
        hopMs: this.#wasm.hopMs,
        flopsPerMs: this.#wasm.measure(), // once it is asked for: a page that only steps starts without
      };
    const found = {
      wasm: wasm || undefined,
      webgpu: here("webgpu") ? this.#gpu : undefined,
      unavailable,
    };
    if (!failed) this.#hardware = found;
    return found;
  }

  /** Stops using a backend, for good. */
  giveUp(name: BackendName, reason: string): void {
    this.#backends.get(name)?.dispose();
    this.#backends.delete(name);
    this.#hardware = undefined;
    this.#unavailable.set(name, reason);
  }

  /** Uses a GPU, from now on or with other rates. */
  use(backend: Backend): void {
    this.#backends.set("webgpu", backend);
    this.#hardware = undefined;
  }

  /** After `failed`, a GPU, has failed -> whether there is one now. */
  async renew(failed: Backend | undefined, error: unknown): Promise<boolean> {
    if (this.#backends.get("webgpu") === failed) await this.#gpu?.renew(error);
    return this.#backends.has("webgpu");
  }

  async dispose(): Promise<void> {
    this.disposed = true;
    for (const backend of this.#backends.values()) await backend.dispose();
  }

  async #openWasm(onTrouble: (reason: string) => void): Promise<void> {
    const { simd = "auto", threads = "auto", workerUrl, wasm } = this.#options;
    try {
      const sharedMemory = sharedMemorySupport().available;
      const most = await threadCount(threads);
      this.#wasm = await openWasm({ simd, workerUrl, wasm, onTrouble, sharedMemory, threads: most });
      this.#backends.set("wasm", this.#wasm);
    } catch (error) {
      this.#unavailable.set("wasm", messageOf(error));
      if (isLinrecError(error) && simd === "relaxed") throw error; // asked for by name
    }
  }

  async #openWebgpu(found: ReturnType<typeof findWebgpu>): Promise<void> {
    const opened = await found;
    if ("reason" in opened) {
      this.giveUp("webgpu", opened.reason);
      return;
    }
    this.#gpu = new opened.Gpu(this, this.#options.gpu);
    await this.#gpu.open(opened.gpu);
  }
}

/** Loads what drives a GPU, where there may be one; or says why there is none. */
async function findWebgpu(injected: unknown) {
  const found = injected ? { gpu: injected } : await findGpu();
  if ("reason" in found) return found;
  return parts.webgpu().then(
    ({ Gpu }) => ({ ...found, Gpu }),
    (error) => ({ reason: messageOf(error) }),
  );
}

function wasmStatus(wasm: WasmBackend): BackendStatus {
  const { compiled, threads, noThreads } = wasm;
  const memory = compiled.shared ? "threads share memory" : sharedMemorySupport().reason;
  const pool =
    noThreads ??
    (threads === 0 ? (noWorkers() ?? "calling thread only") : `up to ${threads} worker threads; ${memory}`);
  const reason = `${compiled.simd} SIMD, ${(wasm.measure() / 1e6).toFixed(1)} GFLOP/s on one thread; ${pool}`;
  return { available: true, reason, simd: compiled.simd, threads, sharedMemory: compiled.shared };
}
