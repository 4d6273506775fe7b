// Calls at random while workers die, GPUs are lost and forwards are stopped, at any moment of them.
import { setTimeout as wait } from "node:timers/promises";
import { sabotaged } from "../faults/sabotaged.mjs";
import { between, random, watchWorkers } from "../support.mjs";
import { randomNetwork } from "./networks.mjs";
import { openOnCpu, openOracles, openWorld, together } from "./play.mjs";

/** Networks for which engines live on: what a worker that has died leaves behind is met by the next ones. */
const LIFE = 10;

/** Every so many networks there is a GPU. To open one anew takes a software adapter a second. */
const GPU_EVERY = 8;

/**
 * What a worker does before each kernel call: it dies if so many calls have been made, and it waits, so that short forwards take long
 * enough to be disturbed.
 */
const HAZARD = `
  const last = Atomics.load(reached, 1);
  const isDue = last > 0 && Atomics.load(reached, 0) >= last;
  if (isDue && Atomics.compareExchange(reached, 1, last, 0) === last) process.exit(9);
  Atomics.wait(new Int32Array(shared), 0, 0, 0.1);`;

export default {
  promise:
    "Whatever fails, and whenever: a call gives what it would have given, or an error from the list; and it has changed nothing then.",
  how: "The calls of the campaign before, on workers with shared memory and by messages and every eighth network on a GPU that may fall back, while workers exit before a kernel call, are ended from outside, the device is destroyed and signals fire, each some moment after the calls were made.",
  plants: [
    {
      says: "a forward is done when a worker has died",
      file: "src/cpu/runner.ts",
      find: "if (!isWorkerFault(error)) throw error;",
      replace: "if (isWorkerFault(error)) return; throw error;",
    },
    {
      says: "a call that fails takes the next one with it",
      file: "src/runtime/queue.ts",
      find: "result.catch(() => {})",
      replace: "result",
    },
    {
      says: "an aborted stream has moved the cache that it began with",
      file: "src/layers/forwards.ts",
      find: "return state.state.clone();",
      replace: "return state.state;",
    },
  ],
  async run({ linrec, library, isFull, fail }) {
    const networks = isFull ? 400 : 24;
    const workerUrl = sabotaged(library, HAZARD, "called = fault;");
    const kernelCalls = new Int32Array(new SharedArrayBuffer(8));
    const workers = watchWorkers({ workerData: kernelCalls });
    const oracleEngines = await openOracles(linrec);
    const told = { wasm: 0, webgpu: 0 };
    const onFallback = ({ from }) => told[from]++;
    let engines = {};
    const close = async () => {
      for (const engine of Object.values(engines)) await engine.dispose();
    };
    const done = { calls: 0, refusals: 0, compared: 0, dying: 0, ended: 0, lost: 0, stopped: 0 };
    for (let seed = 1; seed <= networks; seed++) {
      const next = random(seed);
      const network = randomNetwork(next);
      if (seed % LIFE === 1) {
        await close();
        engines = await openOnCpu(linrec, { onFallback, workerUrl });
      }
      const own = { ...engines };
      if (seed % GPU_EVERY === 0)
        own.webgpu = await linrec.createEngine({ backend: ["webgpu", "wasm"], threads: 0, onFallback });
      const { world, judge, dispose } = await openWorld(linrec, next, network, own, oracleEngines);
      let stop;
      /** Something goes wrong, some moments from now. */
      const faults = {
        dying: () => Atomics.store(kernelCalls, 1, kernelCalls[0] + between(next, 1, 12)),
        ended: () => workers[Math.floor(next() * workers.length)]?.terminate(),
        lost: () => {
          world.excuses = ["gpu-failed", "backend-unavailable"];
          own.webgpu.gpuDevice?.destroy();
        },
        stopped: () => stop.abort(),
      };
      for (let round = 0; round < 12 && judge.wrong.length === 0; round++) {
        stop = new AbortController();
        world.signal = stop.signal;
        const going = together(linrec, world);
        const pending = Object.entries(faults)
          .filter(([name]) => next() < 0.3 && (name !== "lost" || own.webgpu))
          .map(async ([name, act]) => {
            const moment = 3 * next() ** 2;
            await (moment < 1 ? undefined : wait(moment));
            done[name]++;
            act();
          });
        done.calls += await going;
        await Promise.all(pending);
      }
      dispose();
      await own.webgpu?.dispose();
      done.refusals += world.refusals;
      done.compared += judge.compared;
      if (judge.wrong.length > 0) fail(`seed ${seed}, ${network.kind}: ${judge.wrong[0]}`);
    }
    await close();
    for (const engine of oracleEngines) await engine.dispose();
    if (isFull && told.wasm * told.webgpu === 0) fail(`nobody was told: ${JSON.stringify(told)}`);
    return {
      networks,
      "calls, of them refused": `${done.calls}, ${done.refusals}`,
      "outputs and caches compared": done.compared,
      "workers told to die, ended, devices destroyed, signals fired": `${done.dying}, ${done.ended}, ${done.lost}, ${done.stopped}`,
      "kernels called by workers": kernelCalls[0],
      "fallbacks told of: workers, GPU": `${told.wasm}, ${told.webgpu}`,
    };
  },
};
