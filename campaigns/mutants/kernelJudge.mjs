// A process that runs test/kernels.test.ts's checks on one compiled module after the other. Asked by `mutants.mjs`.
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { build } from "esbuild";
import { project } from "../plant.mjs";

setFlagsFromString("--experimental-wasm-relaxed-simd"); // Node 20 has it behind this flag
const { outputFiles } = await build({
  ...{ absWorkingDir: project, bundle: true, write: false, format: "esm", platform: "node" },
  stdin: {
    resolveDir: join(project, "test/support"),
    contents: `
      export { specialize } from "../../src/cpu/specialize.js";
      export { Bench } from "./bench.js";
      export { kernelChecks } from "./kernelChecks.js";`,
  },
});
const text = Buffer.from(outputFiles[0].text).toString("base64");
const { Bench, kernelChecks, specialize } = await import(`data:text/javascript;base64,${text}`);

process.on("message", async ({ wasm }) => process.send(await judge(wasm)));
process.on("disconnect", () => process.exit());
process.send({ ready: true });

async function judge(wasm) {
  for (const isFused of [true, false]) {
    const bytes = Uint8Array.from(wasm);
    specialize(bytes, isFused);
    let name = "it compiles";
    try {
      const bench = await Bench.open(bytes);
      for (name of Object.keys(kernelChecks)) {
        bench.clear();
        kernelChecks[name](bench);
      }
    } catch (error) {
      return { killed: true, by: `${isFused ? "relaxed" : "baseline"}, ${name}: ${error.message}` };
    }
  }
  return { killed: false };
}
