// The calling thread's side of the engine in thousands of orders: its workers run in this process, and a seed says which
// message arrives next, and when between them a caller starts a forward, steps, aborts, disposes, or a worker dies.
import { readFileSync } from "node:fs";
import { runInProcess } from "../inProcess.mjs";
import { between, floats, isTyped, lruParams, pick, random, sameBits, undisturbed } from "../support.mjs";

const real = { setTimeout, clearTimeout, setImmediate, performance };
/** The library takes setImmediate as it finds it on import: these are of the world, once there is one. */
let immediates;
globalThis.setImmediate = (act, ...given) =>
  immediates ? immediates.push(() => act(...given)) : real.setImmediate(act, ...given);
const turnOfEvents = () => new Promise((resolve) => real.setImmediate(resolve));

/** What may happen next. Timers only run when nothing else does: the time is the order. */
class World {
  ports = [];
  immediates = [];
  timers = [];
  workers = [];

  constructor(source) {
    const world = this;
    const start = Object.getPrototypeOf(async () => {}).constructor(
      ...["performance", "globalThis", "postMessage", "addEventListener", "removeEventListener", source],
    );
    // A clock by which messages take no time: the scheduler is to take workers for whatever pays with real ones.
    let now = performance.now();
    Object.defineProperty(globalThis, "performance", { value: { now: () => (now += 1e-3) }, writable: true });
    immediates = this.immediates;
    globalThis.setTimeout = (act, ms) => {
      const timer = { act, ms, ref() {}, unref() {} };
      this.timers.push(timer);
      return timer;
    };
    globalThis.clearTimeout = (timer) => {
      const at = this.timers.indexOf(timer);
      if (at >= 0) this.timers.splice(at, 1);
    };
    globalThis.Worker = class FakeWorker {
      #ended = false;
      #inside = new Target();
      #outside = new Target();
      #toInside = world.port((data) => this.#inside.tell("message", { data }));
      #toOutside = world.port((data) => this.#outside.tell("message", { data }));

      constructor() {
        world.workers.push(this);
        const [inside, post] = [this.#inside, (data, moved) => this.#toOutside.put(data, moved)];
        const scope = Object.assign(Object.create(globalThis), { postMessage: post });
        scope.addEventListener = (...args) => inside.addEventListener(...args);
        scope.removeEventListener = (...args) => inside.removeEventListener(...args);
        start(real.performance, scope, post, scope.addEventListener, scope.removeEventListener);
      }

      addEventListener(...args) {
        this.#outside.addEventListener(...args);
      }
      removeEventListener(...args) {
        this.#outside.removeEventListener(...args);
      }
      postMessage(data, moved) {
        this.#toInside.put(data, moved);
      }
      terminate() {
        this.#ended = true;
        for (const port of [this.#toInside, this.#toOutside]) world.close(port);
      }

      get ended() {
        return this.#ended;
      }
      /** It ends by itself: what it was at is never answered, and an error says so. */
      die() {
        this.terminate();
        this.#outside.tell("error", { message: "a fault on purpose", preventDefault() {} });
      }
      /** It stays, and its next answer says that the call threw. */
      spoil() {
        this.#toOutside.spoilNext = true;
      }
    };
  }

  /** Messages in one direction: they arrive in order, any time. */
  port(deliver) {
    const port = { queue: [], deliver, spoilNext: false, isOpen: true };
    port.put = (data, moved) => {
      if (!port.isOpen) return;
      // Modules and memories go as they are, which Node's structuredClone refuses.
      const isSetUp = data?.path?.[0] === "init";
      port.queue.push(isSetUp ? data : structuredClone(data, { transfer: moved ?? [] }));
    };
    this.ports.push(port);
    return port;
  }

  close(port) {
    port.isOpen = false;
    const at = this.ports.indexOf(port);
    if (at >= 0) this.ports.splice(at, 1);
  }

  /** Everything that could happen now. */
  events() {
    const arrivals = this.ports.filter(({ queue }) => queue.length > 0);
    const acts = arrivals.map((port) => () => arrive(port));
    return this.immediates.length > 0 ? [...acts, () => this.immediates.shift()()] : acts;
  }

  /** The next timer goes off; false if there is none. */
  passTime() {
    const next = this.timers.reduce((first, timer) => (first && first.ms <= timer.ms ? first : timer), null);
    if (next) globalThis.clearTimeout(next);
    next?.act();
    return next !== null;
  }
}

function arrive(port) {
  const data = port.queue.shift();
  if (port.spoilNext && data.id !== undefined) {
    port.spoilNext = false;
    const value = { isError: true, value: { message: "a fault on purpose", name: "Error", stack: "" } };
    port.deliver({ id: data.id, type: "HANDLER", name: "throw", value });
  } else {
    port.deliver(data);
  }
}

class Target {
  #listeners = new Map();

  addEventListener(type, listener) {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), listener]);
  }
  removeEventListener(type, listener) {
    this.#listeners.set(
      type,
      (this.#listeners.get(type) ?? []).filter((other) => other !== listener),
    );
  }
  tell(type, event) {
    for (const listener of this.#listeners.get(type) ?? []) {
      const heard = { origin: "", type, ...event };
      if (typeof listener === "function") listener(heard);
      else listener.handleEvent(heard);
    }
  }
}

const [dModel, dState, batch] = [2, 256, 2]; // much memory for a token: spans are short
const lengths = [2500, 70, 1000];

/** One order. Returns what it did: counts of forwards by their end. */
async function run(linrec, library, world, seed, { params, inputs, expected }, fail) {
  const next = random(seed);
  const wrong = (text) => fail(`seed ${seed}: ${text}`);
  world.workers.length = world.ports.length = world.immediates.length = world.timers.length = 0;
  const wasm = pick(next, [undefined, kernelsOf(library), kernelsOf(library)]);
  const build = wasm ? { wasm } : { simd: "baseline" };
  const options = { backend: "wasm", threads: 2, ...build, workerUrl: "fake:worker" };
  const engine = await linrec.createEngine(options);
  const lru = await engine.lru(params);
  const ended = [];
  const forwards = Array.from({ length: between(next, 2, 5) }, (_, i) => {
    const which = between(next, 0, lengths.length - 1);
    return { i, which, out: next() < 0.5 ? new Float32Array(inputs[which].length) : undefined };
  });
  const cache = lru.allocateInferenceCache(batch);
  const token = inputs[1].subarray(0, batch * dModel);
  const acts = forwards.flatMap((forward) => [
    () => start(forward),
    ...(next() < 0.3 ? [() => stop(forward)] : []),
    ...(next() < 0.2 ? [() => pick(next, living())?.die()] : []),
    ...(next() < 0.2 ? [() => pick(next, living())?.spoil()] : []),
    ...(next() < 0.3 ? [() => lru.stepSync(token, cache)] : []),
  ]);
  if (next() < 0.2) acts.push(() => end(lru));
  acts.push(() => end(engine));
  const haste = pick(next, [0.02, 0.1, 0.5]);
  let mustBeOver = () => [];

  function living() {
    return world.workers.filter((worker) => !worker.ended);
  }

  function start(forward) {
    if (forward.stopped) return;
    forward.controller = new AbortController();
    forward.state = lru.allocateInferenceCache(batch);
    forward.before = hOf(forward.state);
    const settings = { batch, state: forward.state, out: forward.out, signal: forward.controller.signal };
    forward.pending = true;
    const settle = (result) => {
      Object.assign(forward, result, { pending: false, left: forward.out?.slice() });
      ended.push(forward);
    };
    lru.forward(inputs[forward.which], settings).then(
      (value) => settle({ value }),
      (error) => settle({ error }),
    );
  }

  function stop(forward) {
    forward.controller?.abort();
    mustBeOver = () => [forward];
  }

  function end(what) {
    forwards.forEach((forward) => {
      if (!forward.controller) forward.stopped = true;
    });
    what.dispose();
    mustBeOver = () => forwards;
  }

  for (let idle = 0; ; ) {
    for (let turns = between(next, 0, 20); turns > 0; turns--) await null;
    if (world.events().length === 0) await turnOfEvents(); // whatever promises there are, and what is truly asynchronous
    const events = world.events();
    const isLast = acts.length === 1; // the end of the engine comes when all is done, or after a while
    const waits = isLast && forwards.some(({ pending }) => pending);
    if (acts.length > 0 && next() < (isLast ? 0.001 : haste)) acts.shift()();
    else if (events.length > 0) pick(next, events)();
    else if (waits && (++idle < 20 || world.passTime())) continue;
    else if (acts.length > 0) acts.shift()();
    else break;
    idle = 0;
    if (mustBeOver().length > 0) {
      await turnOfEvents();
      for (const { i, pending } of mustBeOver())
        if (pending) wrong(`forward ${i} was not over at once when it was stopped`);
      mustBeOver = () => [];
    }
  }

  let [fulfilled, rejected] = [0, 0];
  let last = -1;
  for (const forward of ended) {
    const { i, which, value, error, out, left, state, before } = forward;
    if (error) {
      rejected++;
      if (!isTyped(linrec, error) || !["aborted", "disposed"].includes(error.code))
        wrong(`forward ${i}: ${error}`);
      if (out && !sameBits(out, left)) wrong(`forward ${i} wrote to its out after it was over`);
    } else {
      fulfilled++;
      if (i < last) wrong(`forward ${i} ended after ${last}`);
      last = i;
      if (!sameBits(value.y, expected[which].y)) wrong(`forward ${i}: other bits`);
      if (!sameBits(hOf(value.state), hOf(expected[which].state))) wrong(`forward ${i}: another state`);
    }
    if (!sameBits(hOf(state), before)) wrong(`forward ${i}: the state passed in has changed`);
  }
  for (const { i, pending } of forwards) if (pending) wrong(`forward ${i} never settled`);
  if (living().length > 0) wrong(`${living().length} workers outlive their engine`);
  return { fulfilled, rejected };
}

function hOf(state) {
  const { re, im } = state.get();
  return Float32Array.of(...re, ...im);
}

let kernels;
function kernelsOf(library) {
  kernels ??= readFileSync(new URL("kernels.wasm", library)); // for private memory: transfer mode
  return kernels;
}

/** As many orders are tried in one process: workers that wait in it for ever keep their memories. */
const BLOCK = 500;

async function inBlocks(library, fail) {
  const totals = {};
  for (let block = 0; block < 10_000 / BLOCK; block++) {
    const { figures, examples } = await runInProcess(import.meta.url, library, String(block));
    for (const example of examples) fail(example);
    for (const [label, count] of Object.entries(figures)) totals[label] = (totals[label] ?? 0) + count;
  }
  return totals;
}

export default {
  promise:
    "Whatever the order of messages, calls, aborts and faults: first in, first out, and the same bits.",
  how: "10,000 seeds. Workers run in the calling thread's process, with shared memory and without; a seed picks which message, call, abort, dispose or fault comes next, and between which promises.",
  plants: [
    {
      says: "a span does not wait for the one before it",
      file: "src/cpu/transfer.ts",
      find: "await turn.reach(task.number);",
      replace: "",
    },
    {
      says: "forwards do not wait for each other",
      file: "src/runtime/queue.ts",
      find: "const result = this.#tail.then(task);",
      replace: "const result = Promise.resolve().then(task);",
    },
    {
      says: "a forward that was aborted goes on writing",
      file: "src/cpu/transfer.ts",
      find: "throwIfAborted(this.#job.signal);\n    if (this.#over)",
      replace: "if (this.#over)",
    },
    {
      says: "a dead worker's calls stay pending",
      file: "src/runtime/breaker.ts",
      find: "for (const reject of this.#waiting) reject(error);",
      replace: "",
    },
  ],
  async run({ linrec, library, size, fail }) {
    if (size === "full") return inBlocks(library, fail);
    const params = lruParams(linrec, dModel, dState);
    const inputs = lengths.map((seqLen, i) => floats(batch * seqLen * dModel, i));
    const alone = await undisturbed(linrec, params, inputs, { batch }, "baseline");
    for (const build of [{ simd: "baseline" }, { wasm: kernelsOf(library) }]) {
      // What the library measures once, and loads when it is first wanted.
      const engine = await linrec.createEngine({ backend: "wasm", threads: 2, ...build });
      await (await engine.lru(params)).forward(inputs[0], { batch });
      await engine.dispose();
    }
    const compiled = WebAssembly.instantiate;
    WebAssembly.instantiate = async (module, imports) =>
      module instanceof WebAssembly.Module
        ? new WebAssembly.Instance(module, imports)
        : compiled(module, imports);
    const world = new World(readFileSync(new URL("worker.js", library), "utf8"));
    const [first, seeds] = size === "short" ? [1, 120] : [1 + BLOCK * Number(size), BLOCK];
    const totals = { fulfilled: 0, rejected: 0, workers: 0 };
    for (let seed = first; seed < first + seeds; seed++) {
      const { fulfilled, rejected } = await run(
        linrec,
        library,
        world,
        seed,
        { params, inputs, ...alone },
        fail,
      );
      totals.fulfilled += fulfilled;
      totals.rejected += rejected;
      totals.workers += world.workers.length;
    }
    if (Object.values(totals).some((total) => total === 0)) fail("nothing happened");
    await alone.dispose();
    Object.defineProperty(globalThis, "performance", { value: real.performance, writable: true });
    return {
      orders: seeds,
      "forwards with the right bits": totals.fulfilled,
      "forwards that were stopped": totals.rejected,
      "workers started": totals.workers,
    };
  },
};
