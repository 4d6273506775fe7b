/**
 * Finding a GPU, and the one object through which everything on it is awaited: it turns a lost device, an error scope
 * that is not clean and a map that never comes into a LinrecError, so that no promise is left pending.
 */
import { asOutOfMemory, LinrecError, messageOf } from "../errors.js";
import { findGpu } from "../runtime/findGpu.js";
import { deadline } from "../runtime/macrotask.js";
import { Queue } from "../runtime/queue.js";

/** An adapter that takes longer is one that never comes: some browsers leave the promise pending for ever. */
const ADAPTER_DEADLINE_MS = 5000;

/** How much later than its consequences the loss of a device may be told. */
const LOSS_MS = 50;

/** Software adapters call themselves so, where they do not say `isFallbackAdapter`. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|basic render|\bwarp\b/i;

/** The limits of a workgroup's threads. */
const THREADS = ["maxComputeInvocationsPerWorkgroup", "maxComputeWorkgroupSizeX"] as const;

/** Innermost last: the order in which the scopes are pushed. */
const FILTERS = ["internal", "out-of-memory", "validation"] as const;

/**
 * Opens the injected GPU, else the browser's, else in Node the one of an optional npm package (`webgpu`, which is Dawn).
 * Never throws: where there is none, `reason` says why, in words a person can act on.
 */
export async function openDevice(injected?: unknown): Promise<{ device: Device } | { reason: string }> {
  const found = injected ? { gpu: injected } : await findGpu();
  if ("reason" in found) return found;
  const gpu = found.gpu as GPU;
  try {
    const adapter = await within(ADAPTER_DEADLINE_MS, "adapter", gpu.requestAdapter());
    if (!adapter) {
      const help =
        "a browser may need a newer GPU driver, or this GPU allowed in its settings; Node needs a Vulkan, Metal or D3D12 driver";
      return { reason: `WebGPU is there, but has no adapter: ${help}` };
    }
    // More than the default limits is needed for weights and activations beyond 128 MiB, and for large tiles.
    const wanted = ["maxBufferSize", "maxStorageBufferBindingSize", ...THREADS] as const;
    const requiredLimits = Object.fromEntries(wanted.map((name) => [name, adapter.limits[name]]));
    const request = { label: "linrec", requiredLimits };
    const handle = await within(ADAPTER_DEADLINE_MS, "device", adapter.requestDevice(request));
    return { device: new Device(gpu, adapter, handle) };
  } catch (error) {
    return { reason: `WebGPU is there, but does not work: ${messageOf(error)}` };
  }
}

/** What a promise of the browser's gives, if it ever does. */
async function within<V>(deadlineMs: number, what: string, promise: Promise<V>): Promise<V> {
  let met = () => {};
  const late = new Promise<never>((_, reject) => {
    const error = new Error(`no ${what} within ${deadlineMs / 1000} s; restarting the browser may help`);
    met = deadline(deadlineMs, () => reject(error));
  });
  return Promise.race([promise, late]).finally(met);
}

export class Device {
  readonly handle: GPUDevice;
  /** The adapter is a program on the CPU. */
  readonly software: boolean;
  /** For people: vendor, architecture and what the driver says of itself. */
  readonly description: string;
  /** Bytes that one binding may have. */
  readonly maxBinding: number;
  /** What it computes in a millisecond: a careful guess until it is measured. */
  flopsPerMs: number;
  /** Held, so that it is not collected before its device. */
  readonly gpu: GPU;
  #failure: LinrecError | undefined;
  readonly #waiting = new Set<(error: LinrecError) => void>();
  readonly #queue = new Queue();

  constructor(gpu: GPU, adapter: GPUAdapter, handle: GPUDevice) {
    this.gpu = gpu;
    this.handle = handle;
    const info = adapter.info as Partial<GPUAdapterInfo> | undefined;
    const words = [info?.vendor, info?.architecture, info?.device, info?.description].filter(Boolean);
    this.description = words.join(" ") || "an unnamed GPU";
    const fallback =
      (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter || info?.isFallbackAdapter || false;
    this.software = fallback || SOFTWARE.test(this.description);
    this.flopsPerMs = this.software ? 4e5 : 2e8;
    this.maxBinding = Math.min(handle.limits.maxStorageBufferBindingSize, handle.limits.maxBufferSize);
    handle.lost.then(({ reason, message }) => {
      this.fail(new LinrecError("gpu-failed", `The GPU was lost (${message || reason}).`));
    });
  }

  /** Ends everything: whoever waits, and whoever comes later, gets the first error that was given here. */
  fail(error: LinrecError): void {
    if (this.#failure) return;
    this.#failure = error;
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
    this.handle.destroy();
  }

  /** Throws what the device has failed with. */
  check(): void {
    if (this.#failure) throw this.#failure;
  }

  /** Runs a task after those that came before it have settled. */
  enqueue<V>(task: () => Promise<V>): Promise<V> {
    return this.#queue.run(async () => {
      this.check();
      return task();
    });
  }

  /** A promise of the GPU's that settles for certain: with the device's failure, or `timeout`, if not by itself. */
  wait<V>(promise: Promise<V>, deadlineMs: number): Promise<V> {
    return new Promise<V>((resolve, reject) => {
      const met = deadline(deadlineMs, () => {
        // What was submitted cannot be called back, so a GPU that hangs is not used again.
        const message = `The GPU did not finish within ${Math.round(deadlineMs / 1000)} s.`;
        this.fail(new LinrecError("timeout", message));
      });
      const settle = (): void => {
        met();
        this.#waiting.delete(fail);
      };
      const fail = (error: LinrecError): void => {
        settle();
        reject(error);
      };
      this.#waiting.add(fail);
      promise.then(
        (value) => {
          settle();
          resolve(value);
        },
        // What a lost device rejects with says less than the loss, which some browsers tell a moment later.
        (error) => setTimeout(() => fail(asGpuError(error)), LOSS_MS),
      );
      if (this.#failure) fail(this.#failure);
    });
  }

  /**
   * Makes GPU calls between error scopes: their results hold only once `clean` has fulfilled. The scopes are closed
   * before this returns, so that no other call's errors fall into them.
   */
  scoped<V>(what: string, calls: () => V): { value: V; clean: Promise<void> } {
    this.check();
    for (const filter of FILTERS) this.handle.pushErrorScope(filter);
    const closed: Promise<void>[] = [];
    let value: V;
    try {
      value = calls();
    } catch (error) {
      throw asGpuError(error);
    } finally {
      for (const filter of [...FILTERS].reverse()) {
        const errors = this.handle.popErrorScope().then((error) => {
          if (error) throw scopeError(filter, what, error);
        });
        // Nobody looks at these if `calls` throws.
        errors.catch(() => undefined);
        closed.push(errors);
      }
    }
    const clean = Promise.all(closed).then(() => undefined);
    clean.catch(() => undefined);
    return { value, clean };
  }

  /** Idempotent. Whoever waits gets `disposed`. */
  dispose(): void {
    this.fail(new LinrecError("disposed", "The engine was disposed of before the GPU had finished."));
  }
}

function scopeError(filter: (typeof FILTERS)[number], what: string, cause: GPUError): LinrecError {
  const [code, problem] =
    filter === "out-of-memory"
      ? (["out-of-memory", "ran out of memory"] as const)
      : (["gpu-failed", `reported a ${filter} error`] as const);
  return new LinrecError(code, `The GPU ${problem} while ${what}: ${cause.message}`, { cause });
}

/** As a LinrecError, whatever it is. */
export function asGpuError(error: unknown): LinrecError {
  if (error instanceof LinrecError) return error;
  if (error instanceof RangeError) return asOutOfMemory("the GPU's data", error) as LinrecError;
  return new LinrecError("gpu-failed", `The GPU failed: ${messageOf(error)}`, { cause: error });
}
