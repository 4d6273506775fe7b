/**
 * Which backend runs what: a pure function of the work, the hardware that was found and a cost model measured on it.
 * It decides nothing in secret: a plan lists every candidate with its predicted cost, and the reason for the choice.
 */
import type { Passes } from "./backend.js";
import { type BackendName, lruFlops } from "./program.js";

/** What is to be run: whole sequences, or one token of each stream. */
export type Verb = "forward" | "step";

/** The work, as far as its cost is concerned. */
export interface Work extends Partial<Passes> {
  readonly batch: number;
  readonly seqLen: number;
  readonly flopsPerToken: number;
  /** Of x and of y, for each token of x. */
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** dState of all LRUs together, for a token: the CPU's scan costs more than its flops. */
  readonly states: number;
  /** Values that the tokens' timesteps have, as far as a price depends on it: 0 where there are none. */
  readonly timed?: number;
  /** How often the workers are called: more than once where the rate changes on the way (1 if left out). */
  readonly calls?: number;
}

export interface WasmHardware {
  /** Worker threads that may be used; 0 for none. */
  readonly threads: number;
  /** Why there are no (more) threads, if that is so. */
  readonly threadsReason: string | undefined;
  /** Whether forwards must use all threads (the user gave a number) or may choose. */
  readonly threadsDemanded: boolean;
  /** Whether threads share memory: where they do not, x and y go to them and back in messages. */
  readonly shared: boolean;
  /** Giving workers that are awake a job, and hearing from them. */
  readonly hopMs: number;
  /** Measured on the calling thread. */
  readonly flopsPerMs: number;
}

export interface GpuHardware {
  /** A software adapter computes on the CPU: right, but never the faster choice. */
  readonly software: boolean;
  /** What some work takes there, in parts, in ms. */
  price(work: Work): Readonly<Record<string, number>>;
}

export interface Hardware {
  /** Absent where the backend is not available. */
  readonly wasm: WasmHardware | undefined;
  readonly webgpu: GpuHardware | undefined;
  /** In words, for each backend that is not available. */
  readonly unavailable: ReadonlyMap<BackendName, string>;
}

/** One way to run a piece of work, and what it is predicted to take. */
export interface Candidate {
  /** What would run it. */
  readonly backend: BackendName;
  /** Worker threads; 0 is the calling thread. */
  readonly threads: number;
  /** Predicted time in ms; Infinity where the candidate cannot run. */
  readonly ms: number;
  /** What it is the sum of, in ms: "compute", and "upload", "dispatches" and so on where there are any. */
  readonly parts: Readonly<Record<string, number>>;
  /** Whether it can run here. */
  readonly available: boolean;
  /** Why it was chosen, or why not. */
  readonly reason: string;
}

/** What would run a piece of work, and why: the candidate that was chosen, and all of them. */
export interface Plan {
  /** What was asked about. */
  readonly verb: Verb;
  /** What would run it. */
  readonly backend: BackendName;
  /** Worker threads; 0 is the calling thread, or another backend than "wasm". */
  readonly threads: number;
  /** Predicted time in ms. */
  readonly ms: number;
  /** What it is the sum of, in ms, as of a {@link Candidate}. */
  readonly parts: Readonly<Record<string, number>>;
  /** Why it was chosen, in words, with its predicted time and that of the next best. */
  readonly reason: string;
  /** All that could run it, and all that cannot run here, in a fixed order. */
  readonly candidates: readonly Candidate[];
}

/** What may be used: the fastest of all ("auto"), or backends in order of preference. */
export type Preference = "auto" | readonly BackendName[];

/** Copying x into engine memory and y out of it. */
const COPY_BYTES_PER_MS = 1e7;
/** Where x and y go to workers and back in messages, that takes so many times as long (4 in Chromium, 8 to 9 in WebKitGTK and Firefox), and two hops. */
const MESSAGES = 6;
/** With next to nothing to compute: on the calling thread, and on workers, beside what wakes them. */
const CALL_MS = 0.002;
const WINDOW_MS = 0.012;
/** Posting a job to the workers. */
const POST_MS = 0.003;
/** A token alone has a register tile of six to itself, and waits for its weights. */
const ALONE = 1.5;
/** Scan, carry and the ends of register tiles cost the CPU this many flops for each state and token beyond those counted. */
const FLOPS_PER_STATE = 20;
/** What the CPU's rate is of, in src/cpu/backend.ts: a layer of 64 features and states, those of its states not counted. */
const MEASURED = 1 + (64 * FLOPS_PER_STATE) / lruFlops(64, 64);
/** The float64 oracle is plain JavaScript, and each token takes it as long as so many flops beyond its own. */
const REFERENCE_FLOPS_PER_MS = 1.5e6;
const REFERENCE_TOKEN_FLOPS = 300;
/** Two threads are never quite two: memory and clocks are shared. */
const THREAD_EFFICIENCY = 0.92;
/**
 * Deriving lambda^Delta of a state for one token, and scanning it in float64, takes a thread 12-16 ns where all timesteps
 * differ (which is not looked into beforehand): as long as so many flops of a product. A row's tokens take turns at it.
 */
const TIMED_STATE_FLOPS = 300;
/** Tokens that keep a thread busy: more than a chunk. Shorter sequences cannot be shared in time. */
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
    parts: choice.parts,
    reason,
    candidates: candidates.map((candidate) => (candidate === choice ? { ...candidate, reason } : candidate)),
  };
}

/** The choice of {@link plan} for a forward, without the words, which take longer than a short one. */
export function choose(work: Work, hardware: Hardware, preference: Preference): Candidate | undefined {
  return pick(price("forward", work, hardware), hardware, preference);
}

function pick(candidates: Candidate[], hardware: Hardware, preference: Preference): Candidate | undefined {
  if (preference !== "auto") {
    const usable = candidates.filter(({ available, backend }) => available && preference.includes(backend));
    const first = preference.find((name) => usable.some(({ backend }) => backend === name));
    return cheapest(usable.filter(({ backend }) => backend === first));
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

function cheapest(candidates: readonly Candidate[]): Candidate | undefined {
  return candidates.reduce<Candidate | undefined>(
    (best, next) => (best && best.ms <= next.ms ? best : next),
    undefined,
  );
}

function price(verb: Verb, work: Work, hardware: Hardware): Candidate[] {
  return [...priceWasm(verb, work, hardware), priceGpu(verb, work, hardware), priceReference(work, hardware)];
}

function candidate(
  backend: BackendName,
  threads: number,
  parts: Readonly<Record<string, number>>,
  reason: string,
  available = true,
): Candidate {
  const ms = Object.values(parts).reduce((sum, part) => sum + part, 0);
  return { backend, threads, ms, parts, available, reason };
}

function missing(backend: BackendName, hardware: Hardware): Candidate {
  const reason = hardware.unavailable.get(backend) ?? "it was not looked for";
  return { ...candidate(backend, 0, {}, reason, false), ms: Number.POSITIVE_INFINITY };
}

function priceWasm(verb: Verb, work: Work, hardware: Hardware): Candidate[] {
  const { wasm } = hardware;
  if (!wasm) return [missing("wasm", hardware)];
  const tokens = work.batch * work.seqLen;
  const flops = tokens * (work.flopsPerToken + FLOPS_PER_STATE * work.states);
  const compute = ((work.seqLen > 1 ? 1 : ALONE) * flops) / (wasm.flopsPerMs * MEASURED);
  const timesteps = work.timed && (tokens * work.states * TIMED_STATE_FLOPS) / wasm.flopsPerMs;
  const timed = (share: number) => timesteps && { timesteps: timesteps / share };
  const copies = (tokens * (work.bytesIn + work.bytesOut)) / COPY_BYTES_PER_MS;
  const calling = (reason: string, available = true) =>
    candidate("wasm", 0, { call: CALL_MS, copies, compute, ...timed(1) }, reason, available);
  if (verb === "step") return [calling("a step is shorter than waking a worker")];
  if (wasm.threads === 0) return [calling(wasm.threadsReason ?? "no worker threads were asked for")];
  const busy = Math.max(1, Math.min(wasm.threads, Math.ceil(tokens / TOKENS_PER_THREAD)));
  const speedup = busy === 1 ? 1 : busy * THREAD_EFFICIENCY;
  const demanded = wasm.threadsDemanded;
  // Of two and more the calling thread is one where that saves waking it: it begins at once, and the others join it.
  const late =
    wasm.threads === 1
      ? wasm.hopMs
      : POST_MS + Math.min((wasm.hopMs * (busy - 1)) / busy, compute - compute / speedup);
  return [
    calling(demanded ? "`threads` was given as a number" : "the workers are faster", !demanded),
    candidate(
      "wasm",
      wasm.threads,
      {
        call: WINDOW_MS,
        copies,
        compute: compute / speedup,
        ...timed(Math.max(1, Math.min(wasm.threads, work.batch))),
        ...(!wasm.shared && { messages: MESSAGES * copies + 2 * wasm.hopMs }),
        hops: (work.calls ?? 1) * late,
      },
      "workers cost more than they save",
    ),
  ];
}

function priceGpu(verb: Verb, work: Work, hardware: Hardware): Candidate {
  const gpu = hardware.webgpu;
  if (!gpu) return missing("webgpu", hardware);
  const slow =
    verb === "step"
      ? "its round trip is longer than a step"
      : "its round trip and copies cost more than it saves";
  const reason = gpu.software ? "its adapter is software: the CPU under another name" : slow;
  return candidate("webgpu", 0, gpu.price(work), reason);
}

function priceReference({ batch, seqLen, flopsPerToken }: Work, hardware: Hardware): Candidate {
  if (hardware.unavailable.has("reference")) return missing("reference", hardware);
  const compute = (batch * seqLen * (flopsPerToken + REFERENCE_TOKEN_FLOPS)) / REFERENCE_FLOPS_PER_MS;
  return candidate("reference", 0, { compute }, "it is the slow float64 oracle, for checking");
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
