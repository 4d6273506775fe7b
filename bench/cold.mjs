// Cold start in Chromium: from `import` to the first token of an LRU that has been read, linrec beside onnxruntime-web. The same
// page, the same layer, both from bytes that are there already; a fresh browser profile each time.
// `npm run build && npm ci --prefix bench && node bench/cold.mjs [rounds]`
import { fileURLToPath } from "node:url";
import { chromium } from "playwright";
import { fromLruParams, writeSafetensors } from "../dist/index.js";
import { findBrowser } from "../tools/browser.mjs";
import { isolated, serve } from "../tools/serve.mjs";
import { build } from "./peers/choices.mjs";
import { matrices } from "./peers/matrices.mjs";
import { GraphBuilder, model } from "./peers/onnx.mjs";
import { paramsOf } from "./shapes.mjs";
import { summarize } from "./stats.mjs";

const shape = { batch: 1, seqLen: 1, dModel: 64, dState: 64 };
const stateDims = [shape.dState, 1, 1];
const rounds = Number(process.argv[2] ?? 15);

/** In the page: { ms, y } of the first token. */
const contenders = {
  linrec: async ({ url, bytes, x }) => {
    const file = Uint8Array.from(bytes);
    const start = performance.now();
    const { createEngine } = await import(url);
    const engine = await createEngine({ backend: "wasm" });
    const lru = await engine.lru(file);
    const y = lru.stepSync(Float32Array.from(x), lru.allocateInferenceCache());
    return { ms: performance.now() - start, y: [...y] };
  },
  "onnxruntime-web": async ({ url, bytes, x, stateDims, y: name }) => {
    const file = Uint8Array.from(bytes);
    const start = performance.now();
    const { InferenceSession, Tensor, env } = await import(url);
    env.wasm.numThreads = 1;
    const session = await InferenceSession.create(file, { executionProviders: ["wasm"] });
    const zeros = () => new Tensor("float32", new Float32Array(stateDims[0]), stateDims);
    const tensor = new Tensor("float32", Float32Array.from(x), [1, x.length]);
    const results = await session.run({ x: tensor, h0Re: zeros(), h0Im: zeros() });
    return { ms: performance.now() - start, y: [...results[name].data] };
  },
};

const { browser: launch, reason } = findBrowser();
if (!launch) throw new Error(reason);
const site = await serve(fileURLToPath(new URL("..", import.meta.url)), isolated);
const x = Array.from({ length: shape.dModel }, (_, i) => Math.sin(i));
const onnx = onnxModel();
const inputs = {
  linrec: { url: "/dist/index.js", bytes: [...writeSafetensors(fromLruParams(paramsOf(shape)))], x },
  "onnxruntime-web": {
    url: "/bench/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs",
    ...onnx,
    x,
    stateDims,
  },
};
const times = { linrec: [], "onnxruntime-web": [] };
let first;
for (let round = 0; round < rounds; round++) {
  for (const [name, run] of Object.entries(contenders)) {
    const browser = await chromium.launch(launch);
    const page = await browser.newPage();
    await page.goto(`${site.url}bench/README.md`);
    const { ms, y } = await page.evaluate(run, inputs[name]);
    await browser.close();
    first ??= y;
    const off = Math.max(...first.map((value, i) => Math.abs(value - y[i])));
    if (!(off < 1e-4)) throw new Error(`${name} computes something else: off by ${off}`);
    times[name].push(ms);
  }
}
site.close();
for (const [name, list] of Object.entries(times)) {
  const { median, min, q1, q3 } = summarize(list);
  const [middle, ...rest] = [median, min, q1, q3].map((ms) => ms.toFixed(1));
  console.log(
    `${name.padEnd(16)} median ${middle} ms (fastest ${rest[0]}, middle half ${rest[1]} to ${rest[2]})`,
  );
}

/** One token: the state goes in and out. */
function onnxModel() {
  const graph = new GraphBuilder();
  const formulation = { kind: "chunked", target: 16, rows: 1, L: 1 };
  const built = build(graph, "x", shape, matrices(paramsOf(shape)), formulation, ["h0Re", "h0Im"]);
  const dims = [1, shape.dModel];
  const inputs = [
    ["x", dims],
    ["h0Re", stateDims],
    ["h0Im", stateDims],
  ];
  const outputs = [[built.y, dims], ...built.state().map((name) => [name, stateDims])];
  return { bytes: [...model(graph.graph("lru", inputs, outputs))], y: built.y };
}
