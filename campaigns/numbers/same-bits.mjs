// The same bits everywhere: a hash of what many ways of running give.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { floats, lruParams } from "../support.mjs";

/** Every way of running on the CPU in this process: name -> hash of y and the state's file. */
export async function hashes(linrec, library, seqLens) {
  const { readFileSync } = await import("node:fs");
  const kernels = readFileSync(new URL("kernels.wasm", library)); // baseline, private memory: transfer mode
  const result = {};
  for (const [memory, options] of [
    ["shared", { simd: "baseline" }],
    ["transfer", { wasm: kernels }],
  ]) {
    for (const threads of [0, 1, 2, 3, 4, 8]) {
      const engine = await linrec.createEngine({ backend: "wasm", threads, ...options });
      const lru = await engine.lru(lruParams(linrec, 17, 23));
      const hash = createHash("sha256");
      for (const seqLen of seqLens) {
        const x = floats(3 * seqLen * 17, seqLen);
        const { y, state } = await lru.forward(x, { batch: 3, lengths: [seqLen, seqLen >> 1, 1] });
        hash.update(y).update(lru.serializeState(state));
      }
      result[`${memory}, ${threads} threads`] = hash.digest("hex").slice(0, 16);
      await engine.dispose();
    }
  }
  return result;
}

export default {
  promise:
    'On the CPU every way of running gives the same bits; with simd: "baseline" on every machine and engine.',
  how: "Hashes over threads {0, 1, 2, 3, 4, 8} × {shared memory, transfer} × every Node named in LINREC_NODES (paths, separated by commas), and V8's eager and optimising compilers.",
  plants: [
    {
      says: "a tile's end depends on the number of threads",
      file: "src/cpu/windows.ts",
      find: "Math.ceil(tileTokens / (threads === 0 ? 1 : TAIL_PARTS) / CHUNK) * CHUNK;",
      replace: "Math.ceil(tileTokens / (threads === 0 ? 1 : TAIL_PARTS)) + threads;",
    },
  ],
  async run({ library, isFull, fail }) {
    const nodes = [process.execPath, ...(process.env["LINREC_NODES"]?.split(",") ?? [])];
    const tiers = isFull ? [[], ["--no-wasm-tier-up", "--liftoff-only"], ["--no-liftoff"]] : [[]];
    const seqLens = isFull ? [1, 49, 1000, 20_000] : [49, 3000];
    const seen = new Map();
    let ways = 0;
    const versions = new Set();
    for (const node of nodes) {
      for (const flags of tiers) {
        const source = `
          import * as linrec from ${JSON.stringify(library)};
          import { hashes } from ${JSON.stringify(import.meta.url)};
          const result = await hashes(linrec, ${JSON.stringify(library)}, ${JSON.stringify(seqLens)});
          console.log(JSON.stringify({ version: process.version, result }));
          process.exit(0);`;
        const { stdout, stderr } = spawnSync(node, [...flags, "--input-type=module", "-e", source], {
          encoding: "utf8",
        });
        let report;
        try {
          report = JSON.parse(stdout);
        } catch {
          fail(`${node} ${flags}: ${stderr.slice(0, 300)}`);
          continue;
        }
        versions.add(report.version);
        for (const [way, hash] of Object.entries(report.result)) {
          ways++;
          seen.set(hash, `${report.version} ${flags.join(" ")} ${way}`);
        }
      }
    }
    if (seen.size !== 1) fail(`${seen.size} different results: ${[...seen.values()].join("; ")}`);
    return {
      "ways of running": ways,
      "different results": seen.size,
      Node: [...versions].join(", "),
      compilers: tiers.length,
      hash: [...seen.keys()].join(", "),
    };
  },
};
