/** What `createEngine` takes, and how it is checked. */
import type { Simd, WasmSource } from "../cpu/kernels.js";
import { LinrecError } from "../errors.js";
import { isBytes } from "../io/bytes.js";
import { type BackendOption, checkBackendOption } from "../layers/forwardOptions.js";
import { typeName } from "../tensor.js";
import { checkChoice, checkCount, checkFunction, checkObject, checkOptions, show } from "../validate.js";

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
  /** "auto" (the default): relaxed where the runtime has it. "baseline": the same bits on every machine. Of linrec's own kernels: not with `wasm`. */
  simd?: Simd | "auto" | undefined;
  /**
   * Where the worker script is served, for a Content-Security-Policy that forbids blob: workers. It is `linrec/worker`. A
   * TrustedScriptURL, for one that asks for Trusted Types, is cast to a URL, as `new Worker` has it in TypeScript.
   */
  workerUrl?: string | URL | undefined;
  /** The kernels, where compiling inlined bytes is forbidden. They are `linrec/kernels.wasm`. */
  wasm?: WasmSource | undefined;
  /** What to do with NaN and infinities in x: "propagate" (the default) or "reject". Parameters are always checked. */
  nonFinite?: "propagate" | "reject" | undefined;
  /** Called whenever work goes elsewhere than was wanted, with what was left, what took over and why. Nothing falls back in silence. */
  onFallback?: FallbackListener | undefined;
}

export type NonFinite = NonNullable<EngineOptions["nonFinite"]>;

/** More than any machine has cores to spare; each costs memory. */
const MOST_THREADS = 256;

const names = ["backend", "threads", "gpu", "simd", "workerUrl", "wasm", "nonFinite", "onFallback"] as const;

/** A copy, as the engine looks at its options later, too: what has been checked must stay true. Throws `invalid-argument`. */
export function checkEngineOptions(given: EngineOptions): EngineOptions {
  checkOptions("createEngine's options", given, names);
  const options = Object.fromEntries(names.map((name) => [name, given[name]])) as EngineOptions;
  const { backend = "auto", threads = "auto", simd = "auto", nonFinite = "propagate" } = options;
  const { gpu, workerUrl, wasm } = options;
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
  if (gpu !== undefined && gpu !== null) checkObject("gpu", gpu);
  if (workerUrl !== undefined) checkType("workerUrl", workerUrl, /^string$|URL$/, "a URL"); // or a TrustedScriptURL
  if (wasm !== undefined && !isBytes(wasm))
    checkType(
      "wasm",
      wasm,
      /^(WebAssembly\.Module|URL|Response)$/,
      "a WebAssembly.Module, its bytes, a URL object or a Response",
    );
  if (wasm !== undefined && simd !== "auto") {
    throw new LinrecError(
      "invalid-argument",
      `simd "${simd}" chooses among linrec's own kernels, and wasm has others. Leave one of the two out.`,
    );
  }
  return options;
}

function checkType(name: string, value: unknown, types: RegExp, what: string): void {
  if (!types.test(typeName(value)))
    throw new LinrecError("invalid-argument", `${name} must be ${what}; got ${show(value)}.`);
}
