// Compiles changed kernels as esbuild.config.mjs does, in this process and without files.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import asc from "assemblyscript/asc";
import { asText } from "../../tools/embed.mjs";
import { project } from "../plant.mjs";

const sources = new Map(
  readdirSync(join(project, "assembly"))
    .filter((name) => name.endsWith(".ts"))
    .map((name) => [`assembly/${name}`, readFileSync(join(project, "assembly", name), "utf8")]),
);
const config = readFileSync(join(project, "esbuild.config.mjs"), "utf8");
const flags = [.../const ascFlags = \[(.*?)\n\];/s.exec(config)[1].matchAll(/"([^"]+)"/g)].map(
  ([, flag]) => flag,
);
const embedded = join(project, "src/cpu/embedded.gen.ts");

/**
 * The module with one file changed; undefined if it does not compile.
 * @returns {Promise<Uint8Array<ArrayBuffer> | undefined>}
 */
export async function compile(file, text) {
  let wasm;
  const { error } = await asc.main(["assembly/index.ts", "--outFile", "kernels.wasm", ...flags], {
    readFile: (name) => (name === file ? text : (sources.get(name) ?? null)),
    writeFile: (_, content) => {
      wasm = content;
    },
    listFiles: () => [],
    stderr: { write: () => true },
  });
  return error ? undefined : wasm;
}

/** What stands for src/cpu/embedded.gen.ts with another module in it. */
export function embed(wasm) {
  const text = JSON.stringify(asText(wasm));
  return readFileSync(embedded, "utf8").replace(/"text":"([^"\\]|\\.)*"/, () => `"text":${text}`);
}
