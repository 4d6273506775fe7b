/** What is published: only what should be, nothing that runs when it is installed, and the same bytes whoever builds it. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { builtinModules } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { copyProject } from "../campaigns/plant.mjs";
import manifest from "../package.json" with { type: "json" };
import lock from "../package-lock.json" with { type: "json" };
import { partNames } from "../tools/bundle.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const parts = partNames.map((name) => `${name}.js`);
const dist = (name: string) => readFileSync(join(root, "dist", name));

test("nothing runs at installation, and nothing is installed along", () => {
  const scripts = Object.keys(manifest.scripts);
  expect(scripts.filter((name) => /^(pre|post)?(install|prepare)$|^dependencies$/.test(name))).toEqual([]);
  expect(Object.keys(manifest).filter((key) => /^(bundled?|optional)?dependencies$/i.test(key))).toEqual([]);
  expect(Object.keys(manifest.peerDependencies)).toEqual(["webgpu"]);
  expect(manifest.peerDependenciesMeta).toEqual({ webgpu: { optional: true } });
});

test("what a clone installs is pinned by its hash; none of it runs a script", () => {
  interface Installed {
    readonly integrity?: string;
    readonly hasInstallScript?: boolean;
  }
  const packages = Object.entries(lock.packages as unknown as Record<string, Installed>);
  for (const [path, { integrity, hasInstallScript }] of packages) {
    if (path === "") continue;
    expect(integrity, path).toMatch(/^sha512-/);
    if (hasInstallScript)
      expect(manifest.allowScripts, path).toHaveProperty(path.slice("node_modules/".length), false);
  }
});

test("the package has these files and no others", () => {
  const output = execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const paths: string[] = JSON.parse(output)[0].files.map(({ path }: { path: string }) => path);
  const built = [
    "cli.js",
    "index.cjs",
    "index.d.cts",
    "index.d.ts",
    "index.js",
    "linrec.min.js",
    "worker.js",
  ];
  const always = [
    ...["CHANGELOG.md", "LICENSE", "README.md", "package.json", "dist/comlink.LICENSE", "dist/kernels.wasm"],
    ...[...built, ...parts].map((name) => `dist/${name}`),
    ...readdirSync(join(root, "docs"))
      .filter((name) => /\.(md|svg)$/.test(name))
      .map((name) => `docs/${name}`),
  ];
  expect(paths.filter((path) => !/^dist\/(web\/|sbom\.cdx\.json$)/.test(path)).sort()).toEqual(always.sort());
  const page = paths.filter((path) => path.startsWith("dist/web/"));
  expect(page.filter((path) => !/\.(html|js|css|bin|safetensors|LICENSE)$/.test(path))).toEqual([]);
});

test("the library imports what Node has and, if it is there, webgpu", () => {
  for (const name of ["index.js", "index.cjs", "linrec.min.js", "worker.js", "cli.js", ...parts]) {
    const code = dist(name).toString();
    const found = [...code.matchAll(/(?:\bfrom|\bimport|\bimport\(|\brequire\()\s*["'`]([^"'`]+)["'`]/g)].map(
      ([, module]) => module as string,
    );
    const allowed = ["webgpu", name === "cli.js" ? "linrec" : "", ...parts.map((part) => `./${part}`)];
    const other = found.filter((module) => !/^node:/.test(module) && !allowed.includes(module));
    expect(other, name).toEqual([]);
    for (const module of found)
      if (module.startsWith("node:")) expect(builtinModules).toContain(module.slice(5));
  }
});

// A page in another encoding than UTF-8 reads a classic script in that one; and a user's bundler may write what is escaped here
// as it is.
test("the library has no character that an encoding could change", () => {
  for (const name of ["index.js", "index.cjs", "linrec.min.js", "worker.js", ...parts])
    expect(
      dist(name)
        .toString()
        .match(/[^\t\n -~]|\\u|\\x[89a-f]/g),
      name,
    ).toBeNull();
});

test("built again in another folder, from nothing, it is the same to the byte", { timeout: 600_000 }, () => {
  const copy = copyProject();
  try {
    for (const folder of ["build", "src/cpu/embedded.gen.ts"])
      rmSync(join(copy, folder), { recursive: true, force: true });
    execFileSync(process.execPath, ["esbuild.config.mjs", "--quiet"], { cwd: copy });
    const names = readdirSync(join(copy, "dist"));
    expect(names).toContain("kernels.wasm");
    for (const name of names) {
      const again = readFileSync(join(copy, "dist", name));
      expect(again.equals(dist(name)), `dist/${name}: npm run build?`).toBe(true);
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
});

test("the bill of materials names what is bundled", () => {
  const copy = mkdtempSync(join(tmpdir(), "linrec-sbom-"));
  try {
    const file = join(copy, "sbom.json");
    execFileSync(process.execPath, [join(root, "tools/sbom.mjs"), file]);
    const bom = JSON.parse(readFileSync(file, "utf8"));
    expect(bom.metadata.component.purl).toBe(`pkg:npm/linrec@${manifest.version}`);
    expect(bom.components.map(({ name }: { name: string }) => name)).toEqual(["comlink", "uplot"]);
    for (const { hashes } of bom.components) expect(hashes[0].content).toMatch(/^[0-9a-f]{128}$/);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
});
