/**
 * Which backend runs what: a pure function of the work, the hardware that was found and a cost model measured on it.
 * It decides nothing in secret: a plan lists every candidate with its predicted cost, and the reason for the choice.
 */
import type { BackendName } from "./program.js";

export type Verb = "forward" | "step";

/** The work, as far as its cost is concerned. */
export interface Work {
  readonly batch: number;
  readonly seqLen: number;
  readonly flopsPerToken: number;
  /** Of x and y together. */
  readonly bytesPerToken: number;
  /** States that an LRU of tokens with timesteps scans for each of them (0: the tokens have none). */
  readonly timedStates?: number;
  /** How often a backend is called: more than once where the rate changes on the way (1 if left out). */
  readonly calls?: number;
}

export interface WasmHardware {
  /** Worker threads that may be used; 0 for none. */
  readonly threads: number;
  /** Why there are no (more) threads, if that is so. */
  readonly threadsReason: string | undefined;
  /** Whether forwards must use all threads (the user gave a number) or may choose. */
  readonly threadsDemanded: boolean;
  /** Waking the workers and hearing from them. */
  readonly hopMs: number;
  /** Measured on the calling thread. */
  readonly flopsPerMs: number;
}

export interface GpuHardware {
  /** A software adapter computes on the CPU: right, but never the faster choice. */
  readonly software: boolean;
  /** Measured: an empty submit and its readback. Not for software. */
  readonly roundTripMs: number;
  /** Measured with a real kernel. Not for software. */
  readonly flopsPerMs: number;
}

export interface Hardware {
  /** Absent where the backend is not available. */
  readonly wasm: WasmHardware | undefined;
  readonly webgpu: GpuHardware | undefined;
  /** In words, for each backend that is not available. */
  readonly unavailable: ReadonlyMap<BackendName, string>;
}

export interface Candidate {
  readonly backend: BackendName;
  /** Worker threads; 0 is the calling thread. */
  readonly threads: number;
  /** Predicted time in ms; Infinity where the candidate cannot run. */
  readonly ms: number;
  readonly available: boolean;
  /** Why it was chosen, or why not. */
  readonly reason: string;
}

export interface Plan {
  readonly verb: Verb;
  readonly backend: BackendName;
  readonly threads: number;
  readonly ms: number;
  readonly reason: string;
  readonly candidates: readonly Candidate[];
}

/** What may be used: the fastest of all ("auto"), or backends in order of preference. */
export type Preference = "auto" | readonly BackendName[];

/** Copying x in and y out of engine memory, or to and from a GPU: a careful 5 GB/s. */
const COPY_BYTES_PER_MS = 5e6;
/** The float64 oracle is plain JavaScript. */
const REFERENCE_FLOPS_PER_MS = 5e5;
/** What a software adapter reaches (SwiftShader on two cores: 0.45 GFLOP/s); it is not measured. */
const SOFTWARE_FLOPS_PER_MS = 4e5;
/** Two threads are never quite two: memory and clocks are shared. */
const THREAD_EFFICIENCY = 0.92;
/**
 * Deriving lambda^Delta of a state for one token, and scanning it in float64, takes a thread 12-16 ns where all timesteps
 * differ (which is not looked into beforehand): as long as so many flops of a product. A row's tokens take turns at it.
 */
const TIMED_STATE_FLOPS = 300;
/** Tokens that keep a thread busy: two chunks. Shorter sequences cannot be shared in time. */
const TOKENS_PER_THREAD = 64;

/** Chooses for a piece of work, and says why. Undefined if nothing in `preference` is available. */
export function plan(verb: Verb, work: Work, hardware: Hardware, preference: Preference): Plan | undefined {
  const candidates = price(verb, work, hardware);
  const choice = pick(candidates, hardware, preference);
  if (!choice) return undefined;
  const reason = explainChoice(choice, candidates, hardware, preference);
  return {
    verb,
    backend: choice.backend,
    threads: choice.threads,
    ms: choice.ms,
    reason,
    candidates: candidates.map((candidate) => (candidate === choice ? { ...candidate, reason } : candidate)),
  };
}

/** The choice of {@link plan} without the words, which take longer than a short forward. */
export function choose(
  verb: Verb,
  work: Work,
  hardware: Hardware,
  preference: Preference,
): Candidate | undefined {
  return pick(price(verb, work, hardware), hardware, preference);
}

function pick(candidates: Candidate[], hardware: Hardware, preference: Preference): Candidate | undefined {
  if (preference !== "auto") {
    const usable = candidates.filter(({ available, backend }) => available && preference.includes(backend));
    return cheapest(usable.filter(({ backend }) => backend === first(preference, usable)));
  }
  // Where WASM itself is missing, slow and right beats nothing.
  const fallback = candidates.find(({ backend, available }) => available && backend === "reference");
  return cheapest(fair(candidates, hardware)) ?? fallback;
}

/** What "auto" compares: no software adapter, and not the oracle. */
function fair(candidates: readonly Candidate[], { webgpu }: Hardware): Candidate[] {
  return candidates.filter(
    ({ available, backend }) =>
      available && (backend === "wasm" || (backend === "webgpu" && !webgpu?.software)),
  );
}

function first(order: readonly BackendName[], usable: readonly Candidate[]): BackendName | undefined {
  return order.find((backend) => usable.some((candidate) => candidate.backend === backend));
}

function cheapest(candidates: readonly Candidate[]): Candidate | undefined {
  return candidates.reduce<Candidate | undefined>(
    (best, next) => (best && best.ms <= next.ms ? best : next),
    undefined,
  );
}

function price(verb: Verb, work: Work, hardware: Hardware): Candidate[] {
  const tokens = work.batch * work.seqLen;
  const flops = tokens * work.flopsPerToken;
  const copies = (tokens * work.bytesPerToken) / COPY_BYTES_PER_MS;
  return [
    ...priceWasm(verb, work, flops, copies, hardware),
    priceGpu(verb, work, flops, copies, hardware),
    priceReference(flops, hardware),
  ];
}

function missing(backend: BackendName, hardware: Hardware): Candidate {
  const reason = hardware.unavailable.get(backend) ?? "it was not looked for";
  return { backend, threads: 0, ms: Number.POSITIVE_INFINITY, available: false, reason };
}

function priceWasm(
  verb: Verb,
  work: Work,
  flops: number,
  copies: number,
  { wasm, ...hardware }: Hardware,
): Candidate[] {
  if (!wasm) return [missing("wasm", { wasm, ...hardware })];
  const timed = (work.batch * work.seqLen * (work.timedStates ?? 0) * TIMED_STATE_FLOPS) / wasm.flopsPerMs;
  const alone = flops / wasm.flopsPerMs + timed + copies;
  const calling = (available: boolean, reason: string): Candidate => ({
    backend: "wasm",
    threads: 0,
    ms: alone,
    available,
    reason,
  });
  if (verb === "step") return [calling(true, "a step is shorter than waking a worker")];
  if (wasm.threads === 0) return [calling(true, wasm.threadsReason ?? "no worker threads were asked for")];
  const busy = Math.max(1, Math.min(wasm.threads, Math.ceil((work.batch * work.seqLen) / TOKENS_PER_THREAD)));
  const speedup = busy === 1 ? 1 : busy * THREAD_EFFICIENCY;
  const shared: Candidate = {
    backend: "wasm",
    threads: wasm.threads,
    ms:
      (work.calls ?? 1) * wasm.hopMs +
      flops / (wasm.flopsPerMs * speedup) +
      timed / Math.max(1, Math.min(wasm.threads, work.batch)) +
      copies,
    available: true,
    reason: "waking the workers would cost more than they save",
  };
  return [
    calling(
      !wasm.threadsDemanded,
      wasm.threadsDemanded ? "`threads` was given as a number" : "the workers are faster",
    ),
    shared,
  ];
}

function priceGpu(
  verb: Verb,
  { calls = 1 }: Work,
  flops: number,
  copies: number,
  hardware: Hardware,
): Candidate {
  const gpu = hardware.webgpu;
  if (!gpu) return missing("webgpu", hardware);
  const ms =
    calls * gpu.roundTripMs + flops / (gpu.software ? SOFTWARE_FLOPS_PER_MS : gpu.flopsPerMs) + copies;
  const slow =
    verb === "step"
      ? "its round trip is longer than a step"
      : "its round trip and copies cost more than it saves";
  const reason = gpu.software ? "its adapter is software: the CPU under another name" : slow;
  return { backend: "webgpu", threads: 0, ms, available: true, reason };
}

function priceReference(flops: number, hardware: Hardware): Candidate {
  if (hardware.unavailable.has("reference")) return missing("reference", hardware);
  const reason = "it is the slow float64 oracle, for checking";
  return { backend: "reference", threads: 0, ms: flops / REFERENCE_FLOPS_PER_MS, available: true, reason };
}

function explainChoice(
  choice: Candidate,
  candidates: readonly Candidate[],
  hardware: Hardware,
  preference: Preference,
): string {
  const where = describe(choice);
  if (preference === "auto") {
    if (choice.backend === "reference") return `${where}: neither WebAssembly nor a GPU is available`;
    const next = cheapest(fair(candidates, hardware).filter((candidate) => candidate !== choice));
    if (next) return `${where}: predicted ${ms(choice.ms)}, the next best (${describe(next)}) ${ms(next.ms)}`;
    return `${where}: the only candidate (${choice.reason})`;
  }
  const skipped = preference
    .slice(0, preference.indexOf(choice.backend))
    .map((backend) => `${backend}: ${hardware.unavailable.get(backend)}`);
  if (skipped.length > 0) return `${where}: the first of the list that is available (${skipped.join("; ")})`;
  return `${where}: ${preference.length === 1 ? "asked for by name" : "the first of the list"}`;
}

/** "wasm on 2 threads" */
export function describe({ backend, threads }: { backend: BackendName; threads: number }): string {
  if (backend !== "wasm") return backend;
  return threads === 0
    ? "wasm on the calling thread"
    : `wasm on ${threads} worker thread${threads === 1 ? "" : "s"}`;
}

function ms(value: number): string {
  return `${value < 10 ? value.toFixed(value < 0.1 ? 4 : 2) : Math.round(value)} ms`;
}
