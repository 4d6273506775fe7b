// Calls at random on caches at random of networks at random: what came of each stream, beside the same stream stepped by itself.
import { fileURLToPath } from "node:url";
import { browsers } from "../../tools/drivers.mjs";
import { isolated, serve } from "../../tools/serve.mjs";
import { play } from "./play.mjs";

/** What a browser is given: other networks, as many as a page has the time for. */
const inBrowsers = { from: 100_001, networks: 200 };

async function playInBrowser({ start }, library) {
  const site = await serve(fileURLToPath(new URL("../", library)), isolated);
  const driven = await start();
  try {
    const { from, networks } = inBrowsers;
    const page = `${site.url}test/pages/calls.html?library=/dist/index.js&from=${from}&networks=${networks}`;
    return { version: driven.version, ...JSON.parse(await driven.show(page)) };
  } finally {
    await driven.close();
    site.close();
  }
}

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
    const played = { Node: await play(linrec, { from: 1, networks: isFull ? 1500 : 80 }) };
    const absent = [];
    for (const [name, browser] of isFull ? Object.entries(browsers) : []) {
      const reason = browser.missing();
      if (reason) absent.push(reason);
      else played[name] = await playInBrowser(browser, library);
    }
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
