/** The GPU in an engine's hands: opened, timed, and opened anew where it has failed. */
import type { Backend, GpuRates } from "../backend.js";
import { messageOf } from "../errors.js";
import type { GpuHardware, Work } from "../scheduler.js";
import { openWebgpu, type WebgpuBackend } from "../webgpu/backend.js";
import { gpuPrice, valuesOf } from "./gpuPrice.js";
import type { BackendStatus } from "./machine.js";

/**
 * A GPU that fails again so soon after it was opened anew is given up. Browsers keep a page from its GPU after two resets
 * in two minutes, and one that hangs is noticed after four; a driver's update, or a laptop's sleep, comes hours apart.
 */
const RENEWAL_MS = 10 * 60_000;

/** What it tells the engine. */
export interface GpuHost {
  readonly disposed: boolean;
  /** It can be used from now on, or its rates are other ones. */
  use(backend: Backend): void;
  /** It cannot, for good. */
  giveUp(name: "webgpu", reason: string): void;
}

export class Gpu implements GpuHardware {
  readonly #host: GpuHost;
  readonly #injected: unknown;
  #backend: WebgpuBackend | undefined;
  #rates: GpuRates | undefined;
  /** When it was last opened anew, and the opening while it is under way. */
  #renewed = Number.NEGATIVE_INFINITY;
  #renewal: Promise<void> | undefined;

  /** @param injected what was given in place of the GPU that is found here */
  constructor(host: GpuHost, injected: unknown) {
    this.#host = host;
    this.#injected = injected;
  }

  get software(): boolean {
    return this.#backend?.software === true;
  }

  get handle(): object | undefined {
    return this.#backend?.handle;
  }

  get status(): BackendStatus {
    const { adapter, software } = this.#backend as WebgpuBackend;
    const reason = software ? `${adapter} (software: never chosen for speed)` : adapter;
    return { available: true, reason, adapter, software };
  }

  passes(...work: Parameters<WebgpuBackend["passes"]>) {
    return this.#backend?.passes(...work);
  }

  readonly valuesOf = valuesOf;

  price(work: Work): Record<string, number> {
    return gpuPrice(work, this.#rates);
  }

  async open(gpu = this.#injected): Promise<void> {
    const opened = await openWebgpu(gpu);
    if ("reason" in opened) {
      this.#host.giveUp("webgpu", opened.reason);
      return;
    }
    const { backend } = opened;
    this.#backend = backend;
    try {
      // Before anybody else can use it. A software adapter is never chosen for its speed, so there is nothing to measure.
      if (!backend.software) this.#rates = await backend.measure();
      this.#host.use(backend);
    } catch (error) {
      await this.#reopen(error);
    }
  }

  /** Opens it anew after it has failed, once for all who ask; gives it up if that was the second time within ten minutes. */
  renew(error: unknown): Promise<void> {
    this.#renewal ??= this.#reopen(error).finally(() => {
      this.#renewal = undefined;
    });
    return this.#renewal;
  }

  async #reopen(error: unknown): Promise<void> {
    this.#backend?.fail(error); // the forwards that are still on it come here too
    const now = performance.now();
    if (now - this.#renewed < RENEWAL_MS) {
      const help = "Create a new engine to try it again.";
      this.#host.giveUp("webgpu", `it failed twice within ten minutes: ${messageOf(error)} ${help}`);
      return;
    }
    this.#renewed = now;
    await this.open();
    if (this.#host.disposed) this.#backend?.dispose();
  }
}
