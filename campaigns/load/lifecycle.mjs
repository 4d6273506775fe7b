// Engines and layers that come and go: nothing may stay behind.
import { countingGpu } from "../faults/lossyGpu.mjs";
import { floats, lruParams, watchWorkers } from "../support.mjs";

export default {
  promise: "What is created is freed: after dispose no worker, listener, GPU buffer or memory is left.",
  how: "1,000 times: an engine with two workers is made, runs a forward with a signal, and is disposed of; and so is one on a GPU (a stand-in that counts the buffers of a real one). 1,000 times on one engine: a layer is made, runs, and is disposed of.",
  plants: [
    {
      says: "dispose leaves the workers running",
      file: "src/cpu/backend.ts",
      find: "for (const worker of workers) worker.terminate();",
      replace: "",
    },
    {
      says: "a forward leaves its listener on the caller's signal",
      file: "src/engine/engineHost.ts",
      find: 'job.signal?.removeEventListener("abort", abort);',
      replace: "",
    },
    {
      says: "a layer's weights stay in memory",
      file: "src/cpu/runner.ts",
      find: "for (const address of [this.#image, this.#scratch, this.#area.x]) arena.free(address);",
      replace: "",
    },
    {
      says: "a layer's buffers stay on the GPU",
      file: "src/webgpu/runner.ts",
      find: "this.#loaded.destroy();",
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

    const { gpu, buffers } = await countingGpu();
    const short = x.subarray(0, 2 * 200 * 8);
    let most = 0;
    for (let i = 0; i < cycles; i++) {
      const engine = await linrec.createEngine({ backend: "webgpu", gpu });
      await (await engine.lru(params)).forward(short, { batch: 2 });
      most = Math.max(most, buffers());
      await engine.dispose();
      if (buffers() > 0) fail(`cycle ${i}: ${buffers()} GPU buffers outlive their engine`);
    }
    if (most === 0) fail("no GPU buffer was made");

    const layers = {};
    for (const [on, options] of Object.entries({
      "two workers": { backend: "wasm", threads: 2 },
      "the GPU": { backend: "webgpu", gpu },
    })) {
      const engine = await linrec.createEngine(options);
      const sizes = [];
      for (let i = 0; i < cycles; i++) {
        const lru = await engine.lru(params);
        await lru.forward(on === "the GPU" ? short : x, { batch: 2 });
        lru.dispose();
        await new Promise((resolve) => setImmediate(resolve));
        const probe = engine.allocate(1);
        sizes.push([probe.buffer.byteLength, buffers()]);
        engine.free(probe);
      }
      const [[bytes, held], [bytesAfter, heldAfter]] = [sizes[Math.floor(cycles / 10)], sizes.at(-1)];
      if (bytesAfter > bytes) fail(`${on}: memory grew from ${bytes} to ${bytesAfter} bytes`);
      if (heldAfter > held) fail(`${on}: GPU buffers grew from ${held} to ${heldAfter}`);
      layers[`layers on ${on}; growth of memory in bytes, and of GPU buffers`] =
        `${cycles}; ${bytesAfter - bytes}, ${heldAfter - held}`;
      await engine.dispose();
    }
    return {
      engines: cycles,
      "workers left": alive.length,
      "listeners left": listeners,
      "engines still reachable": engines,
      "KB of resident memory that stay of an engine": (1024 * growth).toFixed(1),
      "engines on a GPU": cycles,
      "GPU buffers at work, and left": `${most}, ${buffers()}`,
      ...layers,
    };
  },
};
