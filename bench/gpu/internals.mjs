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
    banner: { js: globFiles },
    define: { "import.meta.glob": "globFiles" },
  });
}

/** What Vite's `import.meta.glob` is to test/support, for files of one folder: each as a function that gives its data: URL. */
const globFiles = `import globbed from "node:fs";
function globFiles(pattern) {
  const [folder, ending] = pattern.split("*");
  const url = new URL(folder, new URL("../../test/support/", import.meta.url));
  const names = globbed.existsSync(url) ? globbed.readdirSync(url).filter((name) => name.endsWith(ending)) : [];
  const read = (name) => async () => "data:;base64," + globbed.readFileSync(new URL(name, url)).toString("base64");
  return Object.fromEntries(names.map((name) => [folder + name, read(name)]));
}
`;

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
