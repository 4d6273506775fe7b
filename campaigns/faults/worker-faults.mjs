// Worker threads that fail, from inside and from outside, at every kernel call and at every stage of starting up.
import { Worker } from "node:worker_threads";
import { floats, lruParams, sameResult, settled, undisturbed, watchWorkers } from "../support.mjs";
import { sabotaged } from "./sabotaged.mjs";

/** A worker waits in its place until it has been terminated. */
const END_ME = "end me";

/** What happens to a worker, as source that runs inside it. */
const faults = {
  throws: { act: 'throw new Error("a fault on purpose");' },
  exits: { act: "process.exit(9);" },
  "is terminated": {
    act: `port.postMessage("${END_ME}"); for (;;) Atomics.wait(new Int32Array(shared), 0, 0);`,
  },
  "throws outside of any call": {
    act: 'setTimeout(() => { throw new Error("a fault on purpose"); }); Atomics.wait(new Int32Array(shared), 0, 0, 50);',
    // A worker is awake for more work for a while before it comes to what it has put off; its work may be done by then.
    pauseMs: 100,
  },
  "runs out of heap": { act: "const hog = []; for (;;) hog.push(new Array(1e4).fill(Math.random()));" },
  // Each time until it is given up.
  "loops for ever": { act: "for (;;);", isSlow: true },
};

/** Moments: with the number of a kernel call (each worker counts its own), or of the two of starting up. */
const stages = {
  "as it is loaded": "fault();",
  "as it is set up": "instantiated = fault;",
  at: (nth) => `called = (calls) => { if (calls === ${nth}) fault(); };`,
};

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

/** Longer than any deadline of the library for what is done here. */
const PATIENCE_MS = 40_000;

/** The library waits 10 seconds and more for a worker: here a 25th of that, or every moment at which one may hang took hours. */
function hurry() {
  const real = globalThis.setTimeout;
  const sooner = (ms) => (ms >= 10_000 && ms < PATIENCE_MS ? ms / 25 : ms);
  globalThis.setTimeout = (then, ms, ...args) => real(then, sooner(ms), ...args);
  return () => {
    globalThis.setTimeout = real;
  };
}

/** Workers that are no program. */
const starts = {
  "no such file": "file:///no/such/worker.js",
  "a syntax error": "data:text/javascript,this is no program",
};

export default {
  promise:
    "A worker that throws, exits, is terminated, runs out of memory or loops for ever at any moment costs time, never a result.",
  how: "Each fault is planted at the 1st, 2nd, 3rd … kernel call of a worker (a tile is several), until two forwards end before it; and as it is loaded and set up. (Where workers loop the library's deadlines, 10 seconds and more, come 25 times as soon.) The 1st, 2nd, 3rd … message to a worker is not posted, with shared memory and without.",
  plants: [
    {
      says: "what a worker throws is taken for its answer",
      file: "src/cpu/runner.ts",
      find: "if (!isWorkerFault(error)) throw error;",
      replace: "if (isWorkerFault(error)) return;",
    },
    {
      says: "a worker that loops is waited for",
      file: "src/runtime/macrotask.ts",
      find: "Math.min(ms, MOST_MS)",
      replace: "1e9",
    },
  ],
  async run({ linrec, library, isFull, fail }) {
    const reached = new Int32Array(new SharedArrayBuffer(4));
    // With little heap it is used up soon.
    const given = { workerData: reached, resourceLimits: { maxOldGenerationSizeMb: 32 } };
    const alive = watchWorkers(given, (message, worker) => {
      if (message === END_ME) worker.terminate();
    });
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
    const attempt = async (given, what, { pauseMs = 0, forwards = 2 } = {}) => {
      reached[0] = 0;
      let told = 0;
      const onFallback = () => told++;
      const simd = given.wasm ? "auto" : "baseline"; // kernels that are given are a build of their own
      const options = { backend: "wasm", simd, threads: 2, onFallback };
      const engine = await linrec.createEngine({ ...options, ...given });
      const lru = await engine.lru(params);
      for (let i = 0; i < forwards; i++) {
        const outcome = await settled(lru.forward(x, { batch }), PATIENCE_MS);
        if (outcome === "late") throw new Error(`${what}: a forward never settled`);
        if (outcome.error) fail(`${what}: ${outcome.error}`);
        else if (!sameResult(lru, outcome.value, oracle, expected)) fail(`${what}: other bits`);
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
      await engine.dispose();
      for (let i = 0; i < 500 && alive.length > 0; i++)
        await new Promise((resolve) => setTimeout(resolve, 10));
      if (alive.length > 0) fail(`${what}: ${alive.length} workers outlive their engine`);
      return told;
    };
    for (const [name, { act, pauseMs, isSlow }] of Object.entries(faults)) {
      const undo = isSlow ? hurry() : () => {};
      let moments = 0;
      // Who takes which tile is chance: a moment that no worker came to may be one that a worker comes to next time.
      for (let [nth, missed] = [1, 0]; missed < 5; nth += isFull ? 1 : isSlow ? 1000 : 31) {
        const workerUrl = sabotaged(library, act, stages.at(nth));
        const what = `${name} at call ${nth}`;
        const told = await attempt({ workerUrl }, what, { pauseMs, forwards: isSlow ? 1 : 2 });
        missed = reached[0] > 0 ? 0 : missed + 1;
        if (reached[0] > 0) moments++;
        if (reached[0] > 0 && told === 0 && !pauseMs) fail(`${what}: nobody was told`);
      }
      figures[`moments at which a worker ${name}`] = moments;
      if (moments === 0) fail(`${name}: no worker was reached`);
      for (const stage of ["as it is loaded", "as it is set up"]) {
        const workerUrl = sabotaged(library, act, stages[stage]);
        const told = await attempt({ workerUrl }, `${name} ${stage}`, { pauseMs });
        if (reached[0] === 0) fail(`${name} ${stage}: no worker was reached`);
        if (told === 0) fail(`${name} ${stage}: nobody was told`);
      }
      undo();
    }
    for (const [name, workerUrl] of Object.entries(starts)) {
      if ((await attempt({ workerUrl }, name)) === 0) fail(`${name}: nobody was told`);
    }
    figures["ways not to start"] = 2 * Object.keys(faults).length + Object.keys(starts).length;
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
