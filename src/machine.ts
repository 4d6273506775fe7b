/** What this machine has: the backends that run here, why the others do not, and how fast they are. */
import type { Backend, GpuRates, Passes } from "./backend.js";
import { openWasm, type WasmBackend } from "./cpu/backend.js";
import type { Simd } from "./cpu/kernels.js";
import { sharedMemorySupport, threadCount } from "./environment.js";
import { isLinrecError, messageOf } from "./errors.js";
import { findGpu } from "./findGpu.js";
import type { EngineOptions } from "./options.js";
import { parts } from "./parts.js";
import type { BackendName } from "./program.js";
import type { runReference } from "./reference.js";
import type { Hardware } from "./scheduler.js";
import type { WebgpuBackend } from "./webgpu/backend.js";

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

/**
 * A GPU that fails again so soon after it was opened anew is given up. Browsers keep a page from its GPU after two resets
 * in two minutes, and one that hangs is noticed after four; a driver's update, or a laptop's sleep, comes hours apart.
 */
const RENEWAL_MS = 10 * 60_000;

/** The oracle, whose code is loaded when it first has something to do. An engine's end stops its forwards by their signals. */
const reference: Backend = {
  name: "reference",
  prepare: async (program) => new (await parts.reference()).ReferenceBackend().prepare(program),
  dispose() {},
};

export class Machine {
  readonly #options: EngineOptions;
  readonly #backends = new Map<BackendName, Backend>([["reference", reference]]);
  readonly #unavailable = new Map<BackendName, string>();
  /** Loaded before it can be needed for a step, which does not wait. */
  runReference: typeof runReference | undefined;
  #wasm: WasmBackend | undefined;
  #webgpu: WebgpuBackend | undefined;
  #gpuRates: GpuRates | undefined;
  /** When the GPU was last opened anew, and the opening while it is under way. */
  #renewed = Number.NEGATIVE_INFINITY;
  #renewal: Promise<void> | undefined;
  #disposed = false;
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
    return this.#backends.has("webgpu") ? this.#webgpu?.handle : undefined;
  }

  /** What the price of a GPU is of, where there is one. */
  passes(...work: Parameters<WebgpuBackend["passes"]>): Passes | undefined {
    return this.#webgpu?.passes(...work);
  }

  backend(name: BackendName): Backend | undefined {
    return this.#backends.get(name);
  }

  /** Why a backend does not run here. */
  reason(name: BackendName): string {
    return this.#unavailable.get(name) ?? "it failed";
  }

  status(name: BackendName): BackendStatus {
    if (!this.#backends.has(name)) return { available: false, reason: this.reason(name) };
    if (this.#wasm && name === "wasm") return wasmStatus(this.#wasm);
    if (this.#webgpu && name === "webgpu") return webgpuStatus(this.#webgpu);
    return { available: true, reason: "float64, plain TypeScript: for checking" };
  }

  /** What the scheduler needs to know, but for the backends in `failed`: the same object while it is the same. */
  hardware(failed?: ReadonlySet<BackendName>): Hardware {
    const known = failed ? undefined : this.#hardware;
    const { threads, hopMs, flopsPerMs } = known?.wasm ?? {};
    const same = this.#wasm?.threads === threads && this.#wasm?.hopMs === hopMs;
    if (known && same && this.#wasm?.measure() === flopsPerMs) return known;
    const here = (name: BackendName) => this.#backends.has(name) && !failed?.has(name);
    let unavailable: ReadonlyMap<BackendName, string> = this.#unavailable;
    if (failed)
      unavailable = new Map([...unavailable, ...[...failed].map((name) => [name, "it failed"] as const)]);
    const wasm = here("wasm") &&
      this.#wasm && {
        threads: this.#wasm.threads,
        threadsReason: this.#wasm.noThreads,
        threadsDemanded: typeof this.#options.threads === "number" && this.#options.threads > 0,
        hopMs: this.#wasm.hopMs,
        flopsPerMs: this.#wasm.measure(), // once it is asked for: a page that only steps starts without
      };
    const webgpu = this.#webgpu && { software: this.#webgpu.software, rates: this.#gpuRates };
    const found = {
      wasm: wasm || undefined,
      webgpu: here("webgpu") ? webgpu : undefined,
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

  /**
   * Opens the GPU anew after `failed` has failed, once for all who ask; gives it up if that was the second time within
   * ten minutes. Fulfils with whether there is a GPU now.
   */
  async renew(failed: Backend, error: unknown): Promise<boolean> {
    if (this.#backends.get("webgpu") === failed) {
      this.#renewal ??= this.#reopen(error).finally(() => {
        this.#renewal = undefined;
      });
      await this.#renewal;
    }
    return this.#backends.has("webgpu");
  }

  async #reopen(error: unknown): Promise<void> {
    this.#webgpu?.fail(error); // the forwards that are still on it come here too
    const now = performance.now();
    if (now - this.#renewed < RENEWAL_MS) {
      const help = "Create a new engine to try it again.";
      this.giveUp("webgpu", `it failed twice within ten minutes: ${messageOf(error)} ${help}`);
      return;
    }
    this.#renewed = now;
    await this.#openWebgpu();
    if (this.#disposed) this.#webgpu?.dispose();
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
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

  async #openWebgpu(found = findWebgpu(this.#options.gpu)): Promise<void> {
    const opened = await (await found)();
    if ("reason" in opened) {
      this.giveUp("webgpu", opened.reason);
      return;
    }
    this.#webgpu = opened.backend;
    this.#backends.set("webgpu", opened.backend);
    this.#hardware = undefined;
    // A software adapter is never chosen for its speed, so there is nothing to measure.
    if (opened.backend.software) return;
    try {
      this.#gpuRates = await opened.backend.measure();
      this.#hardware = undefined;
    } catch (error) {
      await this.#reopen(error);
    }
  }
}

type Opened = { backend: WebgpuBackend } | { reason: string };

/** Loads what drives a GPU, where there may be one -> what opens it, or says why not. */
async function findWebgpu(injected: unknown): Promise<() => Opened | Promise<Opened>> {
  const found = injected ? { gpu: injected } : await findGpu();
  if ("reason" in found) return () => found;
  return parts.webgpu().then(
    ({ openWebgpu }) =>
      () =>
        openWebgpu(found.gpu),
    (error) => () => ({ reason: messageOf(error) }),
  );
}

function wasmStatus(wasm: WasmBackend): BackendStatus {
  const { compiled, threads, noThreads } = wasm;
  const memory = compiled.shared ? "threads share memory" : sharedMemorySupport().reason;
  const pool =
    noThreads ?? (threads === 0 ? "calling thread only" : `up to ${threads} worker threads; ${memory}`);
  const reason = `${compiled.simd} SIMD, ${(wasm.measure() / 1e6).toFixed(0)} GFLOP/s on one thread; ${pool}`;
  return { available: true, reason, simd: compiled.simd, threads, sharedMemory: compiled.shared };
}

function webgpuStatus({ adapter, software }: WebgpuBackend): BackendStatus {
  const reason = software ? `${adapter} (software: never chosen for speed)` : adapter;
  return { available: true, reason, adapter, software };
}
