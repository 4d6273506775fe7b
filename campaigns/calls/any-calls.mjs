// Calls at random on caches at random of networks at random: what came of each stream, beside the same stream stepped by itself.
import { inBrowsers } from "../inBrowsers.mjs";
import { play } from "./play.mjs";

/** For browsers: other networks, as many as a page has the time for. */
const page = "calls.html?from=100001&networks=200";

export default {
  promise:
    "Whatever the calls, and whatever their order: each stream gives what it gives when its tokens are stepped one by one, on the CPU bit for bit, and what the float64 reference gives.",
  how: "Layers and models at random, of seven kinds, each on the calling thread, on workers with shared memory and by messages, and every fourth on a GPU (in software, where there is no other). On each some twenty calls at random, up to three at once: forward, step, stepSync, stepMany, forwardStream, clone, read, write, reset, set, states saved and moved between engines, steps of a cache that stays on the GPU; with rows, lengths, timesteps, resets, `every`. Each token of each stream is also stepped by itself, by a network that was written to a file and read again; of networks that cannot step (U-Nets, bidirectional layers) each row is read by itself. And so in Chromium, Firefox and WebKitGTK, where they are installed.",
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
  async run({ linrec, library, isFull, fail }) {
    const inNode = await play(linrec, { from: 1, networks: isFull ? 1500 : 80 });
    const { shown, absent } = isFull ? await inBrowsers(library, page) : { shown: {}, absent: [] };
    const played = { Node: inNode, ...shown };
    for (const [name, { wrong, error }] of Object.entries(played))
      for (const text of error ? [error] : wrong) fail(`${name}: ${text}`);
    const networks = Object.values(played).map(
      ({ version = `Node ${process.version}`, networks, ways }) => `${version}: ${networks}, on ${ways}`,
    );
    const each = (say) =>
      Object.entries(played)
        .map(([name, result]) => `${name} ${say(result)}`)
        .join("; ");
    return {
      networks: [...networks, ...absent].join("; "),
      "calls, of them refused": each(({ calls, refusals }) => `${calls}, ${refusals}`),
      "outputs and caches compared": each(({ compared }) => compared),
      "furthest from the reference, of max|y| so far: CPU, GPU": each(
        ({ furthest: { cpu, gpu } = {} }) => `${cpu?.toExponential(1)}, ${gpu?.toExponential(1)}`,
      ),
    };
  },
};
