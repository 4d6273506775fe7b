/** AbortSignals: how callers stop work. */
import { LinrecError } from "./errors.js";

/** The error of work that its caller stopped. */
export function abortedError(signal: AbortSignal | undefined): LinrecError {
  return new LinrecError("aborted", "The forward was stopped by its AbortSignal.", { cause: signal?.reason });
}

/** Throws `aborted` once the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortedError(signal);
}
