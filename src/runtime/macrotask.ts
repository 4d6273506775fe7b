import { now, setImmediate, setTimeout } from "./clock.js";

/**
 * A turn of the event loop: events, timers and aborts are heard before work goes on. setTimeout would do, but costs a
 * millisecond in Node and four in browsers. An audio worklet has none of them, and no turn to wait for.
 */
export function macrotask(): Promise<void> {
  return new Promise((resolve) => {
    if (setImmediate) {
      setImmediate(resolve);
      return;
    }
    if (typeof MessageChannel === "undefined") {
      if (setTimeout) setTimeout(resolve);
      else resolve();
      return;
    }
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** The calling thread may be a page's: it breathes this often, in ms. */
const BREATH_MS = 12;

/** To be asked in the course of long work: gives a {@link macrotask} to wait for where there has been none for a while. */
export function breathing(): () => Promise<void> | undefined {
  let last = now();
  return () => {
    const time = now();
    if (time - last < BREATH_MS) return undefined;
    last = time;
    return macrotask();
  };
}

/** 25 days: what is above is taken for 1 by setTimeout. */
const MOST_MS = 2 ** 31 - 1;

/** How much longer than its deadline something may take, at most. */
const GRACE_MS = 1000;

/**
 * Calls `late` when `ms` have passed, and a grace of as long again, a second at most; unless what is returned is called before. Where
 * the thread was away for so long (other work, a debugger, a laptop asleep) timers come before the answers that have been waiting, or that
 * another process now gives: these are heard first.
 */
export function deadline(ms: number, late: () => void): () => void {
  const { setTimeout } = globalThis;
  let timer = setTimeout(
    () => {
      timer = setTimeout(late, Math.min(ms, GRACE_MS));
    },
    Math.min(ms, MOST_MS),
  );
  return () => clearTimeout(timer);
}
