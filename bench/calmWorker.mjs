/** The thread of a Probe's helper: sleeps, probes, says how long it took (ns), and sleeps again. */
import { parentPort, workerData } from "node:worker_threads";
import { probeHere } from "./calm.mjs";

const { bytes, state } = workerData;
for (let i = 0; i < 20; i++) probeHere(bytes); // until V8 has optimised it
parentPort.postMessage("ready");
for (let seen = 0; ; ) {
  Atomics.wait(state, 0, seen);
  seen = Atomics.load(state, 0);
  Atomics.store(state, 1, Math.round(1000 * probeHere(bytes)));
  Atomics.notify(state, 1);
}
