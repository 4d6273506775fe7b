// Engines that come and go: nothing may stay behind.
import { floats, lruParams, watchWorkers } from "../support.mjs";

export default {
  promise: "What is created is freed: after dispose no worker, listener or memory is left.",
  how: "1,000 times: an engine with two workers is made, runs a forward with a signal, and is disposed of.",
  plants: [
    {
      says: "dispose leaves the workers running",
      file: "src/cpu/backend.ts",
      find: "for (const worker of workers) worker.terminate();",
      replace: "",
    },
    {
      says: "a forward leaves its listener on the caller's signal",
      file: "src/engine.ts",
      find: 'job.signal?.removeEventListener("abort", abort);',
      replace: "",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const cycles = isFull ? 1000 : 30;
    const alive = watchWorkers();
    const x = floats(2 * 2000 * 8, 1);
    const params = lruParams(linrec, 8, 8);
    let listeners = 0;
    const controller = new AbortController();
    const { addEventListener, removeEventListener } = controller.signal;
    controller.signal.addEventListener = function (...args) {
      listeners++;
      return addEventListener.apply(this, args);
    };
    controller.signal.removeEventListener = function (...args) {
      listeners--;
      return removeEventListener.apply(this, args);
    };
    let [started, rss] = [0, 0];
    const kept = [];
    for (let i = 0; i < cycles; i++) {
      const engine = await linrec.createEngine({ backend: "wasm", threads: 2 });
      const lru = await engine.lru(params);
      await lru.forward(x, { batch: 2, signal: controller.signal });
      started += alive.length;
      const exits = alive.map((worker) => new Promise((resolve) => worker.once("exit", resolve)));
      await engine.dispose();
      await Promise.race([Promise.all(exits), new Promise((resolve) => setTimeout(resolve, 5000))]);
      if (alive.length > 0) fail(`cycle ${i}: ${alive.length} workers outlive their engine`);
      for (const worker of [...alive]) await worker.terminate();
      kept.push(new WeakRef(engine));
      if (i === Math.floor(cycles / 4)) rss = process.memoryUsage.rss();
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 100));
    globalThis.gc?.();
    const engines = kept.filter((ref) => ref.deref()).length;
    const growth = (process.memoryUsage.rss() - rss) / 2 ** 20 / (0.75 * cycles);
    if (started !== 2 * cycles) fail(`${started} workers were started by ${cycles} engines of two`);
    if (listeners !== 0) fail(`${listeners} listeners stay on the caller's signal`);
    // The last engine may still be in a register of the frame above.
    if (globalThis.gc && engines > 1) fail(`${engines} engines are still reachable`);
    if (isFull && growth > 0.1) fail(`${(1024 * growth).toFixed(0)} KB stay of each engine`);
    return {
      engines: cycles,
      "workers left": alive.length,
      "listeners left": listeners,
      "engines still reachable": engines,
      "KB of resident memory that stay of an engine": (1024 * growth).toFixed(1),
    };
  },
};
