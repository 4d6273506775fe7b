/** Builds the page into dist/web: static files for any host. `npm run web` also serves it. Needs a build of the library. */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { readSafetensors } from "linrec";

/** Digits that go with the page, of the 1,000. */
const DIGITS = 120;

/** Chromium under a POSIX locale has a language, "en-US@posix", that Intl refuses, and uPlot asks for as it is imported. */
const validLanguage = `try{Intl.getCanonicalLocales(navigator.language)}catch{Object.defineProperty(navigator,"language",{value:"en-US"})}`;

process.chdir(fileURLToPath(new URL("../..", import.meta.url)));
const out = "dist/web";
mkdirSync(out, { recursive: true });

await build({
  entryPoints: ["examples/web/page.ts", "examples/web/page.css"],
  outdir: out,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  external: ["node:*", "webgpu"],
  logLevel: "warning",
  banner: { js: validLanguage },
});
copyFileSync("examples/web/index.html", `${out}/index.html`);
// What is bundled brings its licence along.
copyFileSync("node_modules/uplot/LICENSE", `${out}/uplot.LICENSE`);
copyFileSync("dist/comlink.LICENSE", `${out}/comlink.LICENSE`);
copyFileSync("examples/data/smnist.safetensors", `${out}/smnist.safetensors`);

// Labels first, then 784 bytes a digit.
const { tensors } = readSafetensors(readFileSync("examples/data/digits.safetensors"));
const [labels, images] = ["labels", "images"].map((name) => Buffer.from(tensors.get(name).data));
writeFileSync(
  `${out}/digits.bin`,
  Buffer.concat([labels.subarray(0, DIGITS), images.subarray(0, 784 * DIGITS)]),
);
