/** What this runtime offers to threads. */
import { LinrecError } from "../errors.js";
import { importLater } from "./importLater.js";

/** "auto" takes what the machine has, up to this: beyond it, memory bandwidth is shared more than work is. */
const MOST_THREADS = 16;

/** Whether threads may share memory, and if not, why and what would help. */
export function sharedMemorySupport(): { available: boolean; reason: string } {
  const missing = typeof SharedArrayBuffer === "undefined";
  // Browsers that show the constructor may still refuse to post it without isolation.
  const refused =
    typeof crossOriginIsolated === "boolean" && !crossOriginIsolated && typeof document !== "undefined";
  if (!missing && !refused) return { available: true, reason: "threads share memory" };
  const why = globalThis.crossOriginIsolated
    ? "this browser has no SharedArrayBuffer"
    : "this page is not cross-origin isolated (serve it with Cross-Origin-Opener-Policy: same-origin and " +
      "Cross-Origin-Embedder-Policy: require-corp)";
  return { available: false, reason: `${why}, so threads exchange messages and do not share memory` };
}

/** Why no thread can be started from here, where none can. */
export function noWorkers(): string | undefined {
  const { Worker, process } = globalThis as { Worker?: unknown; process?: NodeJS.Process };
  if (typeof Worker === "function" || process?.versions?.node) return undefined;
  return "this scope has no Worker (as a service worker has none, or an audio worklet)";
}

/** How many worker threads to use: the option, or as many as the machine runs at once. */
export async function threadCount(option: number | "auto"): Promise<number> {
  if (option !== "auto") return option;
  if (noWorkers()) return 0;
  const cores = globalThis.navigator?.hardwareConcurrency ?? (await nodeCores());
  return Math.min(Math.max(cores, 1), MOST_THREADS);
}

async function nodeCores(): Promise<number> {
  try {
    const os = (await importLater("node:os")) as typeof import("node:os");
    return os.availableParallelism();
  } catch (cause) {
    throw new LinrecError(
      "invalid-argument",
      "This runtime does not say how many cores it has. Pass `threads` as a number.",
      { cause },
    );
  }
}
