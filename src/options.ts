/** What `createEngine` takes, and how it is checked. */
import type { Simd, WasmSource } from "./cpu/kernels.js";
import { LinrecError } from "./errors.js";
import { type BackendOption, checkBackendOption } from "./forwardOptions.js";
import { checkChoice, checkCount, checkFunction, checkOptions } from "./validate.js";

/** Told whenever work goes elsewhere than was wanted. */
export type FallbackListener = (event: {
  readonly from: string;
  readonly to: string;
  readonly reason: string;
}) => void;

/** What `createEngine` takes; all of it may be left out. */
export interface EngineOptions {
  /**
   * "auto" (the default): the fastest backend for each piece of work. A name is a demand: createEngine rejects with
   * `backend-unavailable` if it cannot run here. A list falls back in its order.
   */
  backend?: BackendOption | undefined;
  /** Worker threads: "auto" (the default) uses as many as pay off; a number is how many every forward uses; 0: the calling thread only. */
  threads?: "auto" | number | undefined;
  /** A `GPU` object, where it is not at navigator.gpu: Node users may pass `create([])` of the package `webgpu`. */
  gpu?: unknown;
  /** "auto" (the default): relaxed where the runtime has it. "baseline": the same bits on every machine. */
  simd?: Simd | "auto" | undefined;
  /** Where the worker script is served, for a Content-Security-Policy that forbids blob: workers. It is `linrec/worker`. */
  workerUrl?: string | URL | undefined;
  /** The kernels, where compiling inlined bytes is forbidden. They are `linrec/kernels.wasm`. */
  wasm?: WasmSource | undefined;
  /** What to do with NaN and infinities in x: "propagate" (the default) or "reject". Parameters are always checked. */
  nonFinite?: "propagate" | "reject" | undefined;
  /** Called whenever work goes elsewhere than was wanted, with what was left, what took over and why. Nothing falls back in silence. */
  onFallback?: FallbackListener | undefined;
}

/** More than any machine has cores to spare; each costs memory. */
const MOST_THREADS = 256;

const names = ["backend", "threads", "gpu", "simd", "workerUrl", "wasm", "nonFinite", "onFallback"];

/** Throws `invalid-argument`. */
export function checkEngineOptions(options: EngineOptions): void {
  checkOptions("createEngine's options", options, names);
  const { backend = "auto", threads = "auto", simd = "auto", nonFinite = "propagate" } = options;
  checkBackendOption(backend);
  if (threads !== "auto") checkCount('threads (if it is not "auto")', threads, 0);
  if (Number(threads) > MOST_THREADS) {
    throw new LinrecError(
      "invalid-argument",
      `threads is ${threads}; the most is ${MOST_THREADS}. Give the number of cores, or "auto".`,
    );
  }
  checkChoice("simd", simd, ["auto", "relaxed", "baseline"]);
  checkChoice("nonFinite", nonFinite, ["propagate", "reject"]);
  checkFunction("onFallback", options.onFallback);
}
