/**
 * Whether somebody else weighs on the cores just now. Machines are shared: a stranger on the other half of a core takes next to
 * nothing from a loop of multiply-adds, but up to a third of the rate at which loads go, and with it half of the speed of
 * whatever is worth measuring, for a tenth of a second or for minutes.
 *
 * So a probe, reads of 24 KiB out of the L1 cache, goes before and after each stretch of runs, on as many threads as they
 * use. A stretch was calm if both probes were nearly as fast as the fastest of the whole benchmark, and if no thread of the process
 * waited for a core meanwhile: others may want the same one, and the system may put two threads of ours on one. Neither looks
 * at the runs: none is left out for being slow.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { instantiate, warmUp } from "./rate.mjs";
import { median } from "./stats.mjs";

/** A calm probe takes at most this times the best. Disturbed ones take 1.25 times and more: there is little between. */
const SLOWEST = 1.15;
const PROBE_BYTES = 24 * 1024;
/** About 30 us each. */
const READS = 100;
/** Threads that spin for more work after a run are asleep by then. */
const PAUSE_MS = 2;
const STRETCH_MS = 10;
/** Of the time of a stretch, for all threads together. Two on one core wait half of it, a single turn of another process is more. */
const MOST_WAITED = 0.02;

/** @param {{ probe: number, waited: number }} run of {@link Probe.around} */
export const isCalm = ({ probe, waited }, best) => probe <= SLOWEST * best && waited <= MOST_WAITED;

/** The fastest of the probes that fit in `ms`: what later ones are held against. */
export async function calibrate(bytes, ms) {
  const probe = await Probe.open(bytes, 1);
  const taken = [];
  for (const end = performance.now() + ms; performance.now() < end; ) taken.push(await probe.take());
  return Math.min(...taken);
}

export class Probe {
  #bytes;
  #helpers;

  /** `bytes`: peak.ts compiled, for `threads` threads of this process (their helpers end with it). */
  static async open(bytes, threads) {
    const probe = new Probe();
    probe.#bytes = bytes;
    probe.#helpers = Array.from({ length: threads - 1 }, () => new Helper(bytes));
    await warmUp((rounds) => instantiate(bytes).read(0, rounds * 128));
    await Promise.all(probe.#helpers.map(({ ready }) => ready));
    return probe;
  }

  /** Microseconds that the reads took on the slowest thread. */
  async take() {
    await sleep(PAUSE_MS);
    for (const helper of this.#helpers) helper.start();
    const own = probeHere(this.#bytes);
    return Math.max(own, ...this.#helpers.map((helper) => helper.end()));
  }

  /**
   * Runs for about `ms`, at least one, in stretches between two probes: [{ ms, probe, waited }], of which `waited` is the part of
   * the stretch that threads of this process waited for a core.
   * @param {() => Promise<number>} run one run: its ms
   * @param {boolean} isShort a run more before each stretch wakes caches and threads
   */
  async around(run, ms, isShort) {
    const runs = [];
    const start = performance.now();
    do {
      const since = { time: performance.now(), waited: waitedMs() };
      const before = await this.take();
      if (isShort) await run();
      const times = [];
      const began = performance.now();
      do times.push(await run());
      while (performance.now() - began < Math.min(ms, STRETCH_MS));
      const probe = Math.max(before, await this.take());
      // Less than before if a thread has ended: then it is not known.
      const waited = Math.abs(waitedMs() - since.waited) / (performance.now() - since.time);
      runs.push(...times.map((ms) => ({ ms, probe, waited })));
    } while (performance.now() - start < ms);
    return runs;
  }
}

/** A thread that probes when told to. */
class Helper {
  #state = new Int32Array(new SharedArrayBuffer(8));

  constructor(bytes) {
    const worker = new Worker(new URL("calmWorker.mjs", import.meta.url), {
      workerData: { bytes, state: this.#state },
    });
    worker.unref();
    this.ready = new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
  }

  start() {
    this.#state[1] = 0;
    Atomics.add(this.#state, 0, 1);
    Atomics.notify(this.#state, 0);
  }

  end() {
    Atomics.wait(this.#state, 1, 0);
    return this.#state[1] / 1000;
  }
}

/** How long threads of this process have been ready to run without a core, in all. 0 where the system does not tell: only Linux does. */
function waitedMs() {
  const tasks = "/proc/self/task";
  try {
    const ofThread = (id) => Number(readFileSync(`${tasks}/${id}/schedstat`, "utf8").split(" ")[1]);
    return readdirSync(tasks).reduce((sum, id) => sum + ofThread(id), 0) / 1e6;
  } catch {
    return 0;
  }
}

/** On the calling thread, in microseconds. */
export function probeHere(bytes) {
  const { read } = instantiate(bytes);
  const times = [];
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    for (let j = 0; j < READS; j++) read(0, PROBE_BYTES);
    times.push(1000 * (performance.now() - start));
  }
  return median(times);
}
