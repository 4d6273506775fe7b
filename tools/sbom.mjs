// Writes dist/sbom.cdx.json (or the file it is told), which travels in the package: what of other people's code is bundled into it (CycloneDX 1.5).
// Read off the bundles themselves and package-lock.json; the same for the same sources.
import { readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const file = resolve(process.argv[2] ?? fileURLToPath(new URL("../dist/sbom.cdx.json", import.meta.url)));
const root = fileURLToPath(new URL("..", import.meta.url));
process.chdir(root);
const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
const { name, version, description, license } = JSON.parse(readFileSync("package.json", "utf8"));

const { metafile } = await build({
  entryPoints: [
    "src/index.ts",
    "workers/worker.ts",
    "cli/linrec.ts",
    "examples/web/page.ts",
    "examples/web/page.css",
  ],
  ...{
    absWorkingDir: root,
    outdir: "out",
    bundle: true,
    write: false,
    metafile: true,
    platform: "node",
    format: "esm",
  },
  external: ["webgpu"],
  plugins: [
    {
      name: "raw-text",
      setup: ({ onLoad }) => onLoad({ filter: /\.wgsl$/ }, () => ({ contents: "" })),
    },
  ],
});
const folders = new Set(
  Object.keys(metafile.inputs).flatMap((path) => /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path) ?? []),
);
const components = [...folders].sort().map((folder) => {
  const { version, license, integrity } = lock.packages[folder];
  const name = folder.slice("node_modules/".length);
  const [alg, hash] = integrity.split("-");
  return {
    ...component(name, version, license),
    hashes: [{ alg: alg.replace("sha", "SHA-"), content: Buffer.from(hash, "base64").toString("hex") }],
  };
});
const bom = {
  $schema: "http://cyclonedx.org/schema/bom-1.5.schema.json",
  ...{ bomFormat: "CycloneDX", specVersion: "1.5", version: 1 },
  metadata: { component: { ...component(name, version, license), description } },
  components,
  dependencies: [{ ref: `${name}@${version}`, dependsOn: components.map((part) => part["bom-ref"]) }],
};
writeFileSync(file, `${JSON.stringify(bom, null, 2)}\n`);

function component(name, version, license) {
  return {
    ...{ type: "library", "bom-ref": `${name}@${version}`, name, version },
    ...{ purl: `pkg:npm/${name.replace("@", "%40")}@${version}`, licenses: [{ license: { id: license } }] },
  };
}
