/** Who imports whom in the sources, as CONTRIBUTING.md says. Of values alone: types are gone once the code runs. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

/** [importer, imported], paths from the root. What `src/parts.ts` loads later is an arrow no more than a URL is one. */
async function arrows(): Promise<[string, string][]> {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: ["src/index.ts", "workers/worker.ts"],
    bundle: true,
    write: false,
    outdir: "out",
    format: "esm",
    packages: "external",
    loader: { ".wgsl": "text" },
    metafile: true,
  });
  return Object.entries(metafile.inputs).flatMap(([importer, { imports }]) =>
    imports
      .filter(({ kind, external }) => kind === "import-statement" && !external)
      .map(({ path }): [string, string] => [importer, path]),
  );
}

/** A way round that follows the arrows, or undefined where there is none. */
function circle(edges: readonly [string, string][]): string[] | undefined {
  const seen = new Set<string>();
  const walk = (node: string, path: readonly string[]): string[] | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node];
    if (seen.has(node)) return undefined;
    seen.add(node);
    for (const [from, to] of edges) {
      const found = from === node ? walk(to, [...path, node]) : undefined;
      if (found) return found;
    }
    return undefined;
  };
  for (const [from] of edges) {
    const found = walk(from, []);
    if (found) return found;
  }
  return undefined;
}

const edges = await arrows();

/** The room of a module: its folder, or, in src/ itself, the module. */
const room = (path: string) => (dirname(path) === "src" ? path : path.split("/").slice(0, 2).join("/"));
const backends = /^src\/(?:cpu|webgpu)\/|^src\/reference(?:Cells)?\.ts$/;
const backend = (path: string) => room(path).replace("Cells", "");

test("the sources were read", () => {
  expect(edges).toContainEqual(["src/index.ts", "src/engine.ts"]);
  expect(edges).toContainEqual(["src/engine.ts", "src/engine/machine.ts"]);
  expect(edges.length).toBeGreaterThan(400);
  expect(
    circle([
      ["a", "b"],
      ["b", "c"],
      ["c", "b"],
    ]),
  ).toEqual(["b", "c", "b"]);
});

test("no circle of modules, none of rooms", () => {
  expect(circle(edges)).toBeUndefined();
  const rooms = edges.map(([from, to]): [string, string] => [room(from), room(to)]);
  expect(circle(rooms.filter(([from, to]) => from !== to))).toBeUndefined();
});

test("backends know neither each other nor what runs them", () => {
  const wrong = edges.filter(([from, to]) => {
    const above = /^src\/(?:engine|layers|models|parts)\/|^src\/(?:engine|lru|scheduler)\.ts$/.test(to);
    return backends.test(from) && (above || (backends.test(to) && backend(to) !== backend(from)));
  });
  expect(wrong).toEqual([]);
});

test("few import a backend", () => {
  const from = edges.filter(([from, to]) => backends.test(to) && !backends.test(from)).map(([from]) => from);
  const outside = new Set(from.filter((path) => !/^src\/parts\/|^workers\//.test(path)));
  const engine = ["gpu", "machine", "selfTest"].map((name) => `src/engine/${name}.ts`);
  expect([...outside].sort()).toEqual(engine);
});

test("kernels import kernels alone", () => {
  for (const name of readdirSync(join(root, "assembly"))) {
    const text = name.endsWith(".ts") ? readFileSync(join(root, "assembly", name), "utf8") : "";
    for (const [, path] of text.matchAll(/from "([^"]+)"/g)) expect(path, name).toMatch(/^\.\/\w+$/);
  }
});
