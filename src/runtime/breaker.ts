import type { StopSignal } from "./signal.js";

/**
 * Rejects all the promises it watches at once: a dead worker's calls, a disposed engine's work. Promise.race against one
 * long-lived promise would do the same and keep every result alive as long as that promise.
 */
export class Breaker {
  readonly #waiting = new Set<(error: unknown) => void>();
  #broken: { readonly error: unknown } | undefined;

  /** Settles as `work` does, or rejects with what the breaker was broken with, if that comes first. */
  watch<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#broken) {
        work.catch(() => {});
        reject(this.#broken.error);
        return;
      }
      this.#waiting.add(reject);
      work.then(resolve, reject).finally(() => this.#waiting.delete(reject));
    });
  }

  /** Rejects what is watched, now and later. Only the first call counts. */
  break(error: unknown): void {
    if (this.#broken) return;
    this.#broken = { error };
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
  }
}

/** Settles as `work` does, or rejects with the signal's reason as soon as it fires. */
export async function untilAborted<T>(work: Promise<T>, signal: StopSignal): Promise<T> {
  const breaker = new Breaker();
  const stop = () => breaker.break(signal.reason);
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop);
  try {
    return await breaker.watch(work);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
