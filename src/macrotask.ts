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
