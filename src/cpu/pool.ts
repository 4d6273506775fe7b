/**
 * The worker threads. Comlink carries the calls; what Comlink lacks is here: a call to a worker that dies, hangs or
 * cannot start rejects (Comlink 4.4 leaves it pending for ever), and idle workers do not keep a Node process alive.
 */
import * as Comlink from "comlink";
import nodeEndpoint from "comlink/dist/esm/node-adapter.mjs";
import { LinrecError, messageOf, unended } from "../errors.js";
import { Breaker } from "../runtime/breaker.js";
import { now } from "../runtime/clock.js";
import { noWorkers } from "../runtime/environment.js";
import { importLater } from "../runtime/importLater.js";
import { deadline } from "../runtime/macrotask.js";
import { Desk } from "./desk.js";
import { workerSource } from "./embedded.gen.js";
import {
  DEADLINE_MS,
  DESK_HOP_MS,
  type SharedJob,
  TYPICAL_HOP_MS,
  type WorkerApi,
  type WorkerInit,
} from "./protocol.js";

/** Time for a worker to start and answer: generous, for a loaded machine. */
const START_MS = 15_000;

/** What differs between a browser's Worker and Node's. */
interface Thread {
  readonly endpoint: Comlink.Endpoint;
  /** Calls back, once or more, when the worker throws outside a call, cannot be loaded, or exits. */
  onFailure(report: (reason: string) => void): void;
  terminate(): void;
  ref(): void;
  unref(): void;
}

export class PooledWorker {
  readonly #api: Comlink.Remote<WorkerApi>;
  readonly #thread: Thread;
  readonly #breaker = new Breaker();
  readonly #desk: Desk | undefined;
  /** What settles the call of the job on the desk. */
  #done = () => {};
  #calls = 0;

  constructor(thread: Thread, shared: boolean) {
    this.#thread = thread;
    this.#desk = shared ? new Desk() : undefined;
    this.#api = Comlink.wrap<WorkerApi>(thread.endpoint);
    thread.endpoint.addEventListener("message", (event) => {
      if ((event as MessageEvent).data === this.#desk?.number) this.#done();
    });
    thread.onFailure((reason) => this.#fail(reason));
    thread.unref();
  }

  /** Settles as `call` does, or rejects when the worker fails or `ms` have passed. */
  async call<T>(call: (api: Comlink.Remote<WorkerApi>) => Promise<T>, ms: number): Promise<T> {
    const late = new Breaker();
    const met = deadline(ms, () =>
      late.break(new LinrecError("timeout", `A worker thread did not answer within ${Math.round(ms)} ms.`)),
    );
    if (this.#calls++ === 0) this.#thread.ref();
    try {
      return await late.watch(this.#breaker.watch(call(this.#api)));
    } finally {
      met();
      if (--this.#calls === 0) this.#thread.unref();
    }
  }

  /** Sets it up in a memory, the caller's or its own. */
  init(init: Omit<WorkerInit, "desk">): Promise<void> {
    return this.call((api) => api.init({ ...init, desk: this.#desk?.buffer }), START_MS);
  }

  /** Works on a share of a window in shared memory, one at a time. */
  run(job: SharedJob, deadline: number): Promise<void> {
    const work = (api: Comlink.Remote<WorkerApi>) =>
      new Promise<void>((resolve) => {
        this.#done = resolve;
        if (!this.#desk?.put(job)) api.run().catch((error) => this.#fail(`it threw: ${messageOf(error)}`));
      });
    return this.call(work, deadline);
  }

  /**
   * For a caller that has found no tile left: the job need not be begun any more, and if it is done that is seen at once. Else
   * the worker's message will say so.
   */
  settle(): void {
    if (this.#desk?.takeBack() || this.#desk?.isDone()) this.#done();
  }

  terminate(): void {
    this.#fail("it was terminated"); // no event says so in a browser
    this.#thread.terminate();
  }

  #fail(reason: string): void {
    this.#breaker.break(new LinrecError("worker-failed", `A worker thread failed: ${reason}.`));
  }
}

export interface Pool {
  readonly workers: PooledWorker[];
  /** What it takes to give them a job while they are awake, and to hear from them, in ms. */
  readonly hopMs: number;
}

/** Starts `count` workers and sets them up. Rejects, with none left running, if one does not start. */
export async function startWorkers(
  count: number,
  init: Omit<WorkerInit, "desk">,
  workerUrl: string | URL | undefined,
): Promise<Pool> {
  const missing = noWorkers();
  if (missing) {
    const text = `Worker threads could not be started: ${missing}. Pass \`threads: 0\`.`;
    throw new LinrecError("worker-failed", text);
  }
  const workers: PooledWorker[] = [];
  try {
    const shared = init.memory !== null;
    for (let i = 0; i < count; i++) workers.push(new PooledWorker(await startThread(workerUrl), shared));
    await Promise.all(workers.map((worker) => worker.init(init)));
    return { workers, hopMs: shared ? DESK_HOP_MS : await measureHop(workers) };
  } catch (error) {
    for (const worker of workers) worker.terminate();
    throw new LinrecError(
      "worker-failed",
      `Worker threads could not be started: ${unended(messageOf(error))}. In a page whose Content-Security-Policy ` +
        "forbids blob: workers, allow worker-src blob:, or serve linrec/worker from your own origin and pass its " +
        "address as `workerUrl`; under Node's permission model, run with --allow-worker.",
      { cause: error },
    );
  }
}

const HOPS = 5;

/** A worker leaves few and short-lived objects behind: with Node's own limit V8 lets them fill megabytes before it collects them. */
const NURSERY_MB = 2;

/**
 * A forward's messages carry more than these empty ones: it was measured to take about twice as long. The best of some, or where a
 * clock ticks too seldom to tell them apart, the mean.
 */
async function measureHop(workers: readonly PooledWorker[]): Promise<number> {
  const start = now();
  let best = Number.POSITIVE_INFINITY;
  let before = start;
  for (let i = 0; i < HOPS; i++) {
    await Promise.all(workers.map((worker) => worker.call((api) => api.unload(-1), DEADLINE_MS)));
    const time = now();
    best = Math.min(best, time - before);
    before = time;
  }
  return 2 * (best || (before - start) / HOPS) || TYPICAL_HOP_MS;
}

async function startThread(workerUrl: string | URL | undefined): Promise<Thread> {
  return typeof globalThis.Worker === "function" ? startWebThread(workerUrl) : startNodeThread(workerUrl);
}

function startWebThread(workerUrl: string | URL | undefined): Thread {
  const script = `(async()=>{"use strict";${workerSource}})()`;
  const url = workerUrl ?? URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  // A page of no origin (a file:, a sandboxed frame) may start a blob: as a classic script alone, which Deno does not know.
  const type = !workerUrl && globalThis.origin === "null" ? "classic" : "module";
  const worker = new Worker(url, { type, name: "linrec" });
  const revoke = () => workerUrl ?? URL.revokeObjectURL(url as string);
  return {
    endpoint: worker,
    onFailure(report) {
      worker.addEventListener("error", (event) => {
        event.preventDefault(); // it is reported, and need not be in the page's console as well
        report(event.message || "its script could not be loaded");
      });
      worker.addEventListener("messageerror", () => report("a message to or from it could not be cloned"));
    },
    terminate() {
      worker.terminate();
      revoke();
    },
    ref() {},
    unref() {},
  };
}

async function startNodeThread(workerUrl: string | URL | undefined): Promise<Thread> {
  const threads = (await importLater("node:worker_threads")) as typeof import("node:worker_threads");
  const url = workerUrl ?? `data:text/javascript,${encodeURIComponent(workerSource)}`;
  // The parent's command line (loaders, debuggers, --input-type) is not the worker's business.
  const worker = new threads.Worker(new URL(url), {
    execArgv: [],
    name: "linrec",
    resourceLimits: { maxYoungGenerationSizeMb: NURSERY_MB },
  });
  return {
    endpoint: nodeEndpoint(worker),
    onFailure(report) {
      worker.on("error", (error) => report(messageOf(error)));
      worker.on("messageerror", (error) => report(messageOf(error)));
      worker.on("exit", (code) => report(`it exited with code ${code}`));
    },
    terminate: () => void worker.terminate(),
    ref: () => worker.ref(),
    unref: () => worker.unref(),
  };
}
