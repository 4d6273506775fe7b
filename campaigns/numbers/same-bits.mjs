// The same bits everywhere: a hash of what many ways of running give.
import { spawnSync } from "node:child_process";
import { inBrowsers } from "../inBrowsers.mjs";

/** The ways of one Node, in a process of its own. */
function ofNode(node, flags, library, seqLens) {
  const source = `
    import { setFlagsFromString } from "node:v8";
    import * as linrec from ${JSON.stringify(library)};
    import { hashesOfBuilds } from ${JSON.stringify(new URL("hashes.mjs", import.meta.url).href)};
    setFlagsFromString("--experimental-wasm-relaxed-simd"); // Node 20 has it behind this flag
    const result = await hashesOfBuilds(linrec, ${JSON.stringify(seqLens)});
    console.log(JSON.stringify({ version: process.version, result }));
    process.exit(0);`;
  const { stdout, stderr } = spawnSync(node, [...flags, "--input-type=module", "-e", source], {
    encoding: "utf8",
  });
  try {
    return JSON.parse(stdout);
  } catch {
    return { error: stderr.slice(0, 300) };
  }
}

export default {
  promise:
    'On the CPU every way of running gives the same bits; with simd: "baseline" on every machine and engine, with "relaxed" within one engine on one machine.',
  how: "Hashes over threads {0, 1, 2, 3, 4, 8} × {shared memory, transfer} × {baseline, relaxed} × Chromium, Firefox and WebKitGTK, where they are installed, and every Node named in LINREC_NODES (paths, separated by commas; Node 20 has relaxed SIMD behind a flag of V8, which is set here); in Node as V8 compiles by itself, with its eager compiler alone, and with its optimising one alone.",
  plants: [
    {
      says: "a tile's end depends on the number of threads",
      file: "src/cpu/windows.ts",
      find: "Math.ceil(tileTokens / (threads === 0 ? 1 : TAIL_PARTS) / CHUNK) * CHUNK;",
      replace: "Math.ceil(tileTokens / (threads === 0 ? 1 : TAIL_PARTS)) + threads;",
    },
  ],
  async run({ library, isFull, fail }) {
    const nodes = [process.execPath, ...(process.env.LINREC_NODES?.split(",") ?? [])];
    const tiers = isFull ? [[], ["--no-wasm-tier-up", "--liftoff-only"], ["--no-liftoff"]] : [[]];
    const seqLens = isFull ? [1, 49, 1000, 20_000] : [49, 3000];
    const seen = new Map();
    /** engine -> its hashes */
    const relaxed = new Map();
    const ways = { baseline: 0, relaxed: 0 };
    const versions = new Set();
    const note = (what, { result, error, isolated, version }) => {
      if (!result) return fail(`${what}: ${error}`);
      if (isolated === false) fail(`${what}: the page is not cross-origin isolated`);
      versions.add(version);
      if (result.relaxed && !relaxed.has(version)) relaxed.set(version, new Map());
      for (const [build, hashes] of Object.entries(result)) {
        for (const [way, hash] of Object.entries(hashes)) {
          ways[build]++;
          (build === "relaxed" ? relaxed.get(version) : seen).set(hash, `${version} ${way}`);
        }
      }
    };
    for (const node of nodes) {
      for (const flags of tiers) note(`${node} ${flags}`, ofNode(node, flags, library, seqLens));
    }
    const { shown, absent } = await inBrowsers(library, `bits.html?seqLens=${seqLens}`);
    for (const [name, result] of Object.entries(shown)) note(name, result);
    if (seen.size !== 1) fail(`${seen.size} different results: ${[...seen.values()].join("; ")}`);
    for (const hashes of relaxed.values()) {
      if (hashes.size !== 1)
        fail(`${hashes.size} different results, relaxed: ${[...hashes.values()].join("; ")}`);
    }
    return {
      "ways of running, baseline": ways.baseline,
      "different results": seen.size,
      engines: [...versions, ...absent].join(", "),
      compilers: tiers.length,
      hash: [...seen.keys()].join(", "),
      "ways of running, relaxed": ways.relaxed,
      "different results of an engine": Math.max(...[...relaxed.values()].map(({ size }) => size), 0),
      "engines with relaxed SIMD": [...relaxed.keys()].join(", ") || "none",
    };
  },
};
