/**
 * Every error that linrec throws or rejects with, by code. The text says when it comes;
 * the message of each error says what came, what was expected and what to do.
 */
export const errorCodes = {
  "invalid-argument": "an argument or option has a value that is not allowed, or is not known",
  "shape-mismatch": "an array's length does not fit the sizes of the layer, the batch or each other",
  "wrong-dtype": "an array is not of the type that is expected (usually Float32Array)",
  detached: "an array's memory was transferred away before or while linrec used it",
  "non-finite": 'a parameter is NaN or infinite, or an input is, under `nonFinite: "reject"`',
  unstable: "a layer has |lambda| >= 1: its state would not decay",
  "foreign-cache": "an inference cache or state belongs to another layer, model or engine",
  "cache-busy": "an inference cache is being advanced by a step that has not finished",
  "backend-unavailable": "a backend that was asked for by name cannot run here",
  unsupported: "the request is understood, but this model, layer or backend cannot do it",
  "malformed-file": "a checkpoint or state file breaks its format",
  "unknown-model":
    "a checkpoint's tensors do not make up the architecture that was asked for, or any that is known",
  aborted: "the caller's AbortSignal fired, or its onProgress or onFallback threw",
  disposed: "the engine, layer or model was disposed of",
  timeout: "work did not finish within its deadline",
  "worker-failed": "a worker thread threw or died, and so did the retry",
  "gpu-failed": "the GPU reported an error or was lost, and no other backend was allowed to finish",
  "out-of-memory": "memory for the work could not be had",
  "load-failed": "a URL or file could not be read",
} as const;

export type LinrecErrorCode = keyof typeof errorCodes;

/** The one error type of linrec. `code` is one of {@link errorCodes}; `cause` is the underlying error, if any. */
export class LinrecError extends Error {
  override readonly name = "LinrecError";
  readonly code: LinrecErrorCode;

  constructor(code: LinrecErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** True for a LinrecError of any copy of this library (two bundles on one page have two classes). */
export function isLinrecError(error: unknown): error is LinrecError {
  return error instanceof Error && error.name === "LinrecError" && "code" in error;
}

/** The text of whatever was thrown, which may throw when it is asked. */
export function messageOf(error: unknown): string {
  try {
    const { message } = Object(error); // of an error of another realm, too: Jest's tests are one
    if (error instanceof Error || typeof message === "string") return String(message);
    return typeof error === "object" ? Object.prototype.toString.call(error) : String(error);
  } catch {
    return "what has no text";
  }
}

/** A text without its full stop, for the middle of a sentence. */
export const unended = (text: string) => text.replace(/\.$/, "");

/** `make()`, where want of memory, for which JavaScript throws a RangeError, becomes `out-of-memory`. */
export function allocating<T>(what: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw asOutOfMemory(what, error);
  }
}

/** A RangeError as `out-of-memory`; any other error as it is. */
export function asOutOfMemory(what: string, error: unknown): unknown {
  if (!(error instanceof RangeError)) return error;
  const message = `Memory for ${what} could not be had (${error.message}). Free some, or work in smaller pieces.`;
  return new LinrecError("out-of-memory", message, { cause: error });
}
