// Workers in which something happens at a moment of their choice.
import { readFileSync } from "node:fs";

/**
 * For `workerUrl`: a worker with a fault at a moment. It counts the times that it came to it where all workers can see.
 * @param act what `fault()` does, as source
 * @param moment source that sets `called` (it is told the number of each kernel call) or `instantiated`, or calls `fault()`
 */
export function sabotaged(library, act, moment) {
  const worker = readFileSync(new URL("worker.js", library), "utf8");
  const prelude = `{
    const { parentPort: port, workerData: reached } = await import("node:worker_threads");
    const shared = new SharedArrayBuffer(4);
    const fault = () => { Atomics.add(reached, 0, 1); ${act} };
    let calls = 0;
    let [called, instantiated] = [() => {}, () => {}];
    ${moment}
    const real = WebAssembly.instantiate;
    WebAssembly.instantiate = async (...args) => {
      instantiated();
      const result = await real(...args);
      const instance = result.instance ?? result;
      const exports = Object.fromEntries(Object.entries(instance.exports).map(([name, kernel]) => [
        name,
        typeof kernel !== "function" ? kernel : (...a) => { called(++calls); return kernel(...a); },
      ]));
      return result.instance ? { ...result, instance: { exports } } : { exports };
    };
  }`;
  return `data:text/javascript,${encodeURIComponent(prelude + worker)}`;
}
