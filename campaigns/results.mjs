// What the campaigns have measured, in results.json, and the page made of it.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { toMarkdown } from "./report.mjs";

const file = new URL("results.json", import.meta.url);

/** Changes the results, which are read anew (another campaign may have written meanwhile), and writes them and the page. */
export async function record(change) {
  const results = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : { campaigns: {} };
  const machine = `${cpus()[0]?.model.trim() ?? "unknown CPU"}, ${availableParallelism()} threads, Node ${process.version}`;
  change(results, { date: new Date().toISOString().slice(0, 10), machine });
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(new URL("../docs/guarantees.md", import.meta.url), await toMarkdown(results));
}
