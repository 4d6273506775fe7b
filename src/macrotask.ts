/**
 * A turn of the event loop: events, timers and aborts are heard before work goes on. setTimeout would do, but costs a
 * millisecond in Node and four in browsers.
 */
export function macrotask(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") {
      setImmediate(resolve);
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
  let last = performance.now();
  return () => {
    const now = performance.now();
    if (now - last < BREATH_MS) return undefined;
    last = now;
    return macrotask();
  };
}
