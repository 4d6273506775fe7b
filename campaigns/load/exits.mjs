// Programs that forget to dispose: Node must still exit by itself.
import { spawn } from "node:child_process";
import { quantile } from "../support.mjs";

const endings = {
  "idle workers": 'await run({ backend: "wasm", threads: 2 });',
  "a calling thread": 'await run({ backend: "wasm", threads: 0 });',
  "whatever is there": "await run({});",
  "workers that cannot start": 'await run({ backend: "wasm", threads: 2, workerUrl: "file:///no/such.js" });',
  "an engine never used": "await createEngine();",
};

export default {
  promise: "Node exits when the program is done, with nothing disposed of.",
  how: "100 programs that leave idle workers, a GPU, or workers that never started; the time from their last line to their end.",
  plants: [
    {
      says: "idle workers keep the process alive",
      file: "src/cpu/pool.ts",
      find: "if (--this.#calls === 0) this.#thread.unref();",
      replace: "this.#calls--;",
    },
  ],
  async run({ library, isFull, fail }) {
    const [rounds, limit] = [isFull ? 20 : 1, 1000];
    const times = [];
    for (let round = 0; round < rounds; round++) {
      for (const [name, ending] of Object.entries(endings)) {
        const source = `
          import { createEngine, initLru } from ${JSON.stringify(library)};
          async function run(options) {
            const engine = await createEngine(options);
            const lru = await engine.lru(initLru({ dModel: 8, dState: 8 }));
            for (let i = 0; i < 2; i++) await lru.forward(new Float32Array(8 * 3000).fill(0.1), { batch: 2 });
          }
          ${ending}
          console.log("done");`;
        const child = spawn(process.execPath, ["--input-type=module", "-e", source], { timeout: 20_000 });
        let done = Number.NaN;
        child.stdout.on("data", () => {
          done = performance.now();
        });
        let errors = "";
        child.stderr.on("data", (text) => {
          errors += text;
        });
        const code = await new Promise((resolve) => child.on("close", resolve));
        const ms = performance.now() - done;
        times.push(ms);
        if (code !== 0) fail(`${name}: exit code ${code} ${errors.slice(0, 200)}`);
        else if (!(ms < limit)) fail(`${name}: it took ${ms.toFixed(0)} ms to exit`);
      }
    }
    return {
      programs: times.length,
      "exits within 1 s": times.filter((ms) => ms < limit).length,
      "time to exit, p50 / slowest, ms": `${quantile(times, 0.5).toFixed(0)} / ${Math.max(...times).toFixed(0)}`,
    };
  },
};
