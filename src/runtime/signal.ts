/** How work is stopped: by its caller's AbortSignal, or by the engine. */
import { LinrecError } from "../errors.js";

/** What of an AbortSignal is used. */
export interface StopSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** An AbortController and its signal in one, without the cost of making those: a short forward takes microseconds. */
export class Stop implements StopSignal {
  readonly #listeners = new Set<() => void>();
  #aborted: { readonly reason: unknown } | undefined;

  get aborted(): boolean {
    return this.#aborted !== undefined;
  }

  get reason(): unknown {
    return this.#aborted?.reason;
  }

  addEventListener(_type: "abort", listener: () => void): void {
    this.#listeners.add(listener);
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    this.#listeners.delete(listener);
  }

  /** Only the first call counts. */
  abort(reason: unknown): void {
    if (this.#aborted) return;
    this.#aborted = { reason };
    for (const listener of this.#listeners) listener();
  }
}

/** The error of work that its caller stopped. */
export function abortedError(signal: StopSignal | undefined): LinrecError {
  return new LinrecError("aborted", "The forward was stopped by its AbortSignal.", { cause: signal?.reason });
}

/** Throws `aborted` once the signal has fired. */
export function throwIfAborted(signal: StopSignal | undefined): void {
  if (signal?.aborted) throw abortedError(signal);
}
