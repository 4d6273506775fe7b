// Worker threads that fail from inside, at every kernel call and at every stage of starting up.
import { readFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { floats, lruParams, sameResult, settled, undisturbed } from "../support.mjs";

/**
 * What a worker does to itself, as source: it runs inside the worker, between two kernel calls. With which of them, in full and
 * in short; and how long to wait after each forward.
 */
const faults = {
  throws: { act: 'throw new Error("a fault on purpose");', steps: [1, 7] },
  exits: { act: "process.exit(9);", steps: [1, 7] },
  "throws outside of any call": {
    act: 'setTimeout(() => { throw new Error("a fault on purpose"); }); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);',
    steps: [1, 7],
    pauseMs: 100, // a worker is awake for more work for a while before it comes to what it has put off
  },
  "runs out of heap": {
    act: "const hog = []; for (;;) hog.push(new Array(1e5).fill(Math.random()));",
    steps: [9, 1000], // it takes seconds each time
  },
  "loops for ever": { act: "for (;;);", steps: [37, 1000] }, // each time until it is given up
};

/** A worker whose `nth` kernel call (of all workers with this source: of each its own) is the fault. */
function sabotaged(library, fault, nth) {
  const worker = readFileSync(new URL("worker.js", library), "utf8");
  const prelude = `
    const real = WebAssembly.instantiate;
    let calls = 0;
    const fault = () => { ${fault} };
    WebAssembly.instantiate = async (...args) => {
      const result = await real(...args);
      const instance = result.instance ?? result;
      const exports = Object.fromEntries(Object.entries(instance.exports).map(([name, kernel]) => [
        name,
        typeof kernel !== "function" ? kernel : (...a) => { if (++calls === ${nth}) fault(); return kernel(...a); },
      ]));
      return result.instance ? { ...result, instance: { exports } } : { exports };
    };`;
  return `data:text/javascript,${encodeURIComponent(prelude + worker)}`;
}

/**
 * The `nth` message to a worker from now on cannot be posted; returns how many there were when it is undone. Comlink's own farewell
 * is none of them: plain data, posted whenever the collector of garbage comes upon a worker that has ended.
 */
function failPost(nth) {
  const post = Worker.prototype.postMessage;
  let count = 0;
  Worker.prototype.postMessage = function (...args) {
    if (args[0]?.type !== "RELEASE" && ++count === nth)
      throw new DOMException("it cannot be cloned on purpose", "DataCloneError");
    return post.apply(this, args);
  };
  return () => {
    Worker.prototype.postMessage = post;
    return count;
  };
}

/** Workers that do not get as far as work. */
const starts = {
  "no such file": () => "file:///no/such/worker.js",
  "a syntax error": () => "data:text/javascript,this is no program",
  "it throws at once": () => 'data:text/javascript,throw new Error("a fault on purpose")',
  "it exits at once": () => "data:text/javascript,process.exit(3)",
};

export default {
  promise: "A worker that throws, exits or runs out of memory at any moment costs time, never a result.",
  how: "Each fault is planted at the 1st, 2nd, 3rd … kernel call of a worker, until a forward ends before it; and at start-up. The 1st, 2nd, 3rd … message to a worker is not posted, with shared memory and without.",
  plants: [
    {
      says: "what a worker throws is taken for its answer",
      file: "src/cpu/runner.ts",
      find: "if (!isWorkerFault(error)) throw error;",
      replace: "if (isWorkerFault(error)) return;",
    },
  ],
  async run({ linrec, library, isFull, fail }) {
    // A short forward the calling thread may have done before a worker begins.
    const params = lruParams(linrec, 96, 96);
    const [batch, seqLen] = [2, 2200];
    const x = floats(batch * seqLen * 96, 1);
    const {
      oracle,
      expected: [expected],
      ...alone
    } = await undisturbed(linrec, params, [x], { batch }, "baseline");
    const figures = {};
    const attempt = async (given, what, pauseMs = 0) => {
      let told = 0;
      const onFallback = () => told++;
      const options = { backend: "wasm", simd: "baseline", threads: 2, onFallback };
      const engine = await linrec.createEngine({ ...options, ...given });
      const lru = await engine.lru(params);
      for (let i = 0; i < 2; i++) {
        const outcome = await settled(lru.forward(x, { batch }), 60_000);
        if (outcome === "late") fail(`${what}: a forward never settled`);
        else if (outcome.error) fail(`${what}: ${outcome.error}`);
        else if (!sameResult(lru, outcome.value, oracle, expected)) fail(`${what}: other bits`);
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
      await engine.dispose();
      return told;
    };
    for (const [name, { act, steps, pauseMs }] of Object.entries(faults)) {
      const step = steps[isFull ? 0 : 1];
      let moments = 0;
      for (let nth = 1; nth < 1000; nth += step) {
        const workerUrl = sabotaged(library, act, nth);
        const told = await attempt({ workerUrl }, `${name} at call ${nth}`, pauseMs);
        if (told === 0) break; // no worker got that far
        moments++;
      }
      figures[`moments at which a worker ${name}`] = moments;
      if (moments === 0) fail(`${name}: no worker was reached`);
    }
    for (const [name, url] of Object.entries(starts)) {
      if ((await attempt({ workerUrl: url() }, name)) === 0) fail(`${name}: nobody was told`);
    }
    figures["ways not to start"] = Object.keys(starts).length;
    const memories = { shared: undefined, private: readFileSync(new URL("kernels.wasm", library)) };
    for (const [memory, wasm] of Object.entries(memories)) {
      let failed = 0;
      for (let nth = 1; ; nth += isFull ? 1 : 5) {
        const undo = failPost(nth);
        const what = `${memory} memory, message ${nth} is not posted`;
        const told = await attempt({ wasm }, what);
        if (undo() < nth) break;
        failed++;
        if (told === 0) fail(`${what}: nobody was told`);
      }
      figures[`messages that were not posted, ${memory} memory`] = failed;
    }
    await alone.dispose();
    return figures;
  },
};
