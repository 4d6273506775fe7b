// What a worker is sent by somebody else: pages and extensions can post to any worker that they can reach.
import { readFileSync } from "node:fs";
import {
  floats,
  inherited,
  lruParams,
  pick,
  random,
  sameResult,
  settled,
  undisturbed,
  watchWorkers,
} from "../support.mjs";

/** A worker that answers NAMES with what Object.prototype has. */
function watched(library) {
  const prelude = `{
    const { parentPort } = await import("node:worker_threads");
    parentPort.on("message", (message) => {
      if (message === "NAMES") parentPort.postMessage({ names: Object.getOwnPropertyNames(Object.prototype).sort() });
    });
  }`;
  const worker = readFileSync(new URL("worker.js", library), "utf8");
  return `data:text/javascript,${encodeURIComponent(prelude + worker)}`;
}

export default {
  promise:
    "Messages to a worker that are not its engine's change no result and pollute no prototype: at worst it is started anew.",
  how: "50,000 malformed messages (Comlink's GET, SET, APPLY, CONSTRUCT with hostile paths and arguments) go to the workers of an engine between and during its forwards.",
  plants: [
    {
      says: "a fault of a worker is taken for an answer",
      file: "src/cpu/runner.ts",
      find: "if (!isWorkerFault(error)) throw error;",
      replace: "if (isWorkerFault(error)) return;",
    },
    {
      says: "a worker takes any message",
      file: "workers/worker.ts",
      find: 'Object.assign(Object(message), { type: "", path: [], argumentList: [] });',
      replace: "return;",
    },
  ],
  async run({ linrec, library, isFull, fail }) {
    const messages = isFull ? 50_000 : 2000;
    const plain = inherited();
    let [asked, polluted] = [0, 0];
    const waiting = new Map();
    const alive = watchWorkers({}, ({ names }, worker) => {
      if (!names) return;
      waiting.get(worker)?.();
      asked++;
      if (String(names) !== plain) polluted++;
    });
    /** Fulfils when every worker has answered, or ended. */
    const answered = () =>
      Promise.all(
        alive.map((worker) => {
          worker.postMessage("NAMES");
          return new Promise((resolve) => {
            worker.once("exit", resolve);
            waiting.set(worker, () => {
              worker.off("exit", resolve);
              resolve();
            });
          });
        }),
      );
    const next = random(3);
    // A short forward the calling thread may have done before a worker begins.
    const params = lruParams(linrec, 96, 96);
    const x = floats(2 * 2200 * 96, 1);
    const {
      oracle,
      expected: [expected],
      ...alone
    } = await undisturbed(linrec, params, [x], { batch: 2 });
    const told = [];
    const engine = await linrec.createEngine({
      backend: "wasm",
      threads: 2,
      workerUrl: watched(library),
      onFallback: ({ reason }) => told.push(reason),
    });
    const lru = await engine.lru(params);
    await lru.forward(x, { batch: 2 });
    const raw = (value) => ({ type: "RAW", value });
    const paths = [
      ["__proto__", "polluted"],
      ["__proto__", "__proto__", "polluted"],
      ["run", "constructor", "__proto__", "__proto__", "polluted"],
      ["constructor", "prototype", "polluted"],
      ["run"],
      ["begin"],
      ["init"],
      ["load"],
      ["unload"],
      ["resume"],
      [],
      ["toString"],
      ["no", "such"],
    ];
    const values = [
      null,
      undefined,
      -1,
      Number.NaN,
      "x",
      {},
      [],
      { program: -1 },
      { id: 0, packed: null },
      { memory: null, module: null },
    ];
    const post = (i) => {
      const message = pick(next, [
        {
          id: i,
          type: pick(next, ["GET", "SET", "APPLY", "CONSTRUCT", "ENDPOINT", "NONE"]),
          path: pick(next, paths),
          value: raw("yes"),
          argumentList: [raw(pick(next, values))],
        },
        pick(next, values),
        { type: "APPLY" },
        // What ends a worker is rare, or none would live to hear the others.
        ...(i % 200 === 0
          ? [["run"], "run"].map((path) => ({ id: i, type: "APPLY", path, argumentList: 5 }))
          : []),
        ...(isFull && i % 1000 === 0 ? [{ id: i, type: "RELEASE", path: [] }] : []),
      ]);
      for (const worker of alive) worker.postMessage(message);
    };
    let [wrong, slowest] = [0, 0];
    for (let i = 0; i < messages; ) {
      for (const end = i + 90; i < end; i++) post(i);
      const start = performance.now();
      if ((await settled(answered(), 10_000)) === "late") fail(`message ${i}: a worker hangs`);
      slowest = Math.max(slowest, performance.now() - start);
      const forward = lru.forward(x, { batch: 2 });
      for (const end = i + 10; i < end; i++) post(i);
      if (!sameResult(lru, await forward, oracle, expected)) wrong++;
    }
    if (wrong > 0) fail(`${wrong} forwards gave other bits`);
    if (polluted > 0) fail(`${polluted} times the Object.prototype of a worker had changed`);
    if (slowest > 100) fail(`90 messages took a worker ${slowest.toFixed(0)} ms`);
    if (asked < messages / 200) fail(`workers were asked for their Object.prototype ${asked} times`);
    if (inherited() !== plain) fail("Object.prototype has changed");
    await engine.dispose();
    await alone.dispose();
    return {
      messages,
      "forwards between them": messages / 100,
      "of them wrong": wrong,
      "the slowest answer behind 90 messages, ms": slowest.toFixed(0),
      "pools given up": told.length,
      "workers asked for their Object.prototype, and it had changed": `${asked}, ${polluted}`,
    };
  },
};
