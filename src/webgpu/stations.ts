/** The links of a network whose rate changes, on the GPU: what each has there, from its weights to what it makes. */
import type { Network } from "../program.js";
import { type Link, type Rates, ratesOf } from "../rates.js";
import type { Device } from "./device.js";
import { betweenOf, makeLinkedPlan } from "./passes.js";
import type { Pipelines } from "./pipelines.js";
import type { Layout } from "./plan.js";
import {
  COPY_DST,
  COPY_SRC,
  type LoadedKernels,
  loadKernels,
  STORAGE,
  UNIFORM,
  type Workspace,
} from "./workspace.js";

/** A link with its weights, and a part's memory. */
export interface Station {
  readonly link: Link;
  readonly loaded: LoadedKernels;
  readonly layout: Layout | undefined;
  workspace: Workspace | undefined;
}

/** Uploads what the links need and compiles their kernels: all of them, or nothing is left. */
export async function loadStations(
  device: Device,
  pipelines: Pipelines,
  network: Network,
  timed: boolean,
): Promise<Station[]> {
  const made = (ratesOf(network) as Rates).links.map(async (link): Promise<Station> => {
    if (link.kind === "part") {
      const { dispatches, ...layout } = makeLinkedPlan(link.program, timed);
      const loaded = await loadKernels(device, pipelines, dispatches);
      return { link, loaded, layout, workspace: undefined };
    }
    const loaded = await loadKernels(device, pipelines, betweenOf(link));
    return { link, loaded, layout: undefined, workspace: undefined };
  });
  try {
    return await Promise.all(made);
  } catch (error) {
    for (const station of made)
      station.then(
        ({ loaded }) => loaded.destroy(),
        () => {},
      );
    throw error;
  }
}

/** Memory by name, which grows to the most that was asked of it. What is in it is lost when it does. */
export class Buffers {
  readonly #device: Device;
  readonly #buffers = new Map<string, GPUBuffer>();
  /** How many have been made. */
  made = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Within `Device.scoped`. */
  take(name: string, bytes: number, usage = STORAGE | UNIFORM | COPY_SRC | COPY_DST): void {
    const known = this.#buffers.get(name);
    if (known && known.size >= bytes) return;
    known?.destroy();
    const size = Math.min(2 ** Math.ceil(Math.log2(Math.max(16, bytes))), this.#device.maxBinding);
    this.#buffers.set(name, this.#device.handle.createBuffer({ label: name, size, usage }));
    this.made++;
  }

  get(name: string): GPUBuffer {
    return this.#buffers.get(name) as GPUBuffer;
  }

  destroy(): void {
    for (const buffer of this.#buffers.values()) buffer.destroy();
    this.#buffers.clear();
  }
}
