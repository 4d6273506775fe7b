/** internals.ts as a module: bundled anew wherever esbuild is, else as it was bundled last (an offline copy has no esbuild). */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

const file = new URL("../build/gpu-internals.mjs", import.meta.url);

export async function loadInternals() {
  const esbuild = await import("esbuild").catch(() => undefined);
  if (esbuild) await bundle(esbuild);
  else if (!existsSync(file))
    throw new Error("bench/build/gpu-internals.mjs is missing, and so is esbuild: run `npm ci`");
  return import(file.href);
}

async function bundle({ build }) {
  await build({
    entryPoints: [fileURLToPath(new URL("internals.ts", import.meta.url))],
    outfile: fileURLToPath(file),
    ...{ bundle: true, format: "esm", platform: "node", target: "node20", logLevel: "warning" },
    external: ["webgpu"],
    plugins: [shaders],
  });
}

/** `import text from "./kernel.wgsl?raw"`, as the library's own build reads it. */
const shaders = {
  name: "shaders",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /\?raw$/ }, ({ path, resolveDir }) => ({
      path: resolve(resolveDir, path.slice(0, -"?raw".length)),
      namespace: "raw",
    }));
    onLoad({ filter: /.*/, namespace: "raw" }, async ({ path }) => ({
      contents: await readFile(path, "utf8"),
      loader: "text",
    }));
  },
};
