import { clearTimeout, setTimeout } from "./clock.js";

/**
 * Settles as `work` does, and keeps the event loop waiting for it. WebAssembly.compile alone does not, in Node: with nothing
 * else to wait for, its main thread blocks until all background tasks end, deaf to one that needs it for a garbage collection
 * (nodejs/node#54918: it hangs for ever, once in some hundred starts on a busy machine).
 */
export function awake<T>(work: Promise<T>): Promise<T> {
  const timer = setTimeout?.(() => {}, 1e9); // a worklet has none
  return work.finally(() => clearTimeout?.(timer));
}
