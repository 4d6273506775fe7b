// Calls at random on caches at random of networks at random: what came of each stream, beside the same stream stepped by itself.
import { random } from "../support.mjs";
import { World } from "./calls.mjs";
import { openNetwork, randomNetwork } from "./networks.mjs";
import { openOnCpu, openOracles, together } from "./play.mjs";
import { Judge } from "./streams.mjs";

export default {
  promise:
    "Whatever the calls, and whatever their order: each stream gives what it gives when its tokens are stepped one by one, on the CPU bit for bit, and what the float64 reference gives.",
  how: "Layers and models at random, of seven kinds, each on the calling thread, on workers with shared memory and by messages, and every fourth on a GPU (in software, where there is no other). On each some twenty calls at random, up to three at once: forward, step, stepSync, stepMany, forwardStream, clone, read, write, reset, set, states saved and moved between engines, steps of a cache that stays on the GPU; with rows, lengths, timesteps, resets, `every`. Each token of each stream is also stepped by itself, by a network that was written to a file and read again; of networks that cannot step (U-Nets, bidirectional layers) each row is read by itself.",
  plants: [
    {
      says: "a row that has no token, among others with timesteps, ends its chunk",
      file: "src/timeline.ts",
      find: "if (this.#timed && t > 0) return 0;",
      replace: "if (this.#timed) return 0;",
    },
    {
      says: "where outputs stand is counted from the call's first token",
      file: "src/timeline.ts",
      find: "let origin = -((this.#count[row] as number) % every);",
      replace: "let origin = 0;",
    },
    {
      says: "a reset within one piece of a stream comes again in the next",
      file: "src/layers/stream.ts",
      find: "this.#resets?.fill(0);",
      replace: "",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const networks = isFull ? 1500 : 80;
    const engines = await openOnCpu(linrec);
    const { webgpu } = (await linrec.createEngine({ threads: 0 })).backends;
    if (webgpu.available) engines.webgpu = await linrec.createEngine({ backend: "webgpu" });
    const oracleEngines = await openOracles(linrec);
    let [calls, refusals, compared] = [0, 0, 0];
    const furthest = { cpu: 0, gpu: 0 };
    for (let seed = 1; seed <= networks; seed++) {
      const next = random(seed);
      const network = randomNetwork(next);
      const names = Object.keys(engines).filter((name) => name !== "webgpu" || seed % 4 === 0);
      const models = {};
      for (const name of names) models[name] = await openNetwork(engines[name], network);
      const file = linrec.writeModel(models.messages);
      const oracles = await Promise.all(oracleEngines.map((engine) => openNetwork(engine, network, file)));
      const judge = new Judge();
      const world = new World(next, network, engines, models, oracles, judge);
      for (let round = 0; round < 12 && judge.wrong.length === 0; round++)
        calls += await together(linrec, world);
      for (const model of [...Object.values(models), ...oracles]) model.dispose();
      refusals += world.refusals;
      compared += judge.compared;
      for (const kind of ["cpu", "gpu"]) furthest[kind] = Math.max(furthest[kind], judge.furthest[kind]);
      if (judge.wrong.length > 0) fail(`seed ${seed}, ${network.kind}: ${judge.wrong[0]}`);
    }
    for (const engine of [...Object.values(engines), ...oracleEngines]) await engine.dispose();
    return {
      networks: `${networks}, on ${Object.keys(engines).join(", ")}`,
      "calls, of them refused": `${calls}, ${refusals}`,
      "outputs and caches compared": compared,
      "furthest from the reference, of max|y| so far: CPU, GPU": `${furthest.cpu.toExponential(1)}, ${furthest.gpu.toExponential(1)}`,
    };
  },
};
