// `node bench/native.mjs [S1,S3]`: linrec on the calling thread beside the same plan in C (native/lru.c), compiled for vectors of the same
// width: what is lost to WebAssembly. "one part" is that without what keeps the bits wherever a sequence is cut: what is lost to that. It
// wants an x86 with fused multiply-add, `cc`, and a Node with relaxed SIMD; on Linux run it on one core (`taskset -c 1`), for the probe
// to tell of that one.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { calibrate, isCalm, Probe } from "./calm.mjs";
import { LineProcess, withFolder } from "./lines.mjs";
import { createEngine } from "./linrec.mjs";
import { compilePeak, measurePeak } from "./peak.mjs";
import { cut } from "./pieces.mjs";
import { fillInput, flopsOf, inputLength, paramsOf, shapes } from "./shapes.mjs";
import { leastProbe, summarize, timesOf } from "./stats.mjs";

const SECONDS = 20;
const TURN_MS = 30;
const PIECE_FLOPS = 3e8;

// lru.c knows panels of 8 columns alone.
const able = shapes.filter(({ dModel }) => dModel % 8 === 0);
const names = process.argv[2]?.split(",") ?? able.map(({ name }) => name);
const wanted = able.filter(({ name }) => names.includes(name));
if (wanted.length < names.length) {
  console.error(`Got ${names.join(",")}; expected some of ${able.map(({ name }) => name).join(",")}.`);
  process.exit(2);
}

await withFolder(async (folder) => {
  const flags = ["-O3", "-mavx2", "-mfma"];
  const compile = (name, ...more) => {
    const source = fileURLToPath(new URL("native/lru.c", import.meta.url));
    execFileSync("cc", [...flags, ...more, "-o", join(folder, name), source]);
    return join(folder, name);
  };
  const programs = { "native, one part": compile("one-part", "-DONE_PART"), native: compile("lru") };
  const [compiler] = execFileSync("cc", ["--version"], { encoding: "utf8" }).split("\n");
  console.log(`${compiler}, ${flags.join(" ")}; Node ${process.version}`);
  const { packProgram, programOf, CHUNK } = await internals();
  for (const shape of wanted) {
    const params = paramsOf(shape);
    await compare(shape, params, packProgram(programOf(params, "lru")), CHUNK, programs, folder);
  }
});

/** What the package does not export. */
async function internals() {
  const entryPoints = [join(import.meta.dirname, "native/internals.ts")];
  const options = { bundle: true, format: "esm", platform: "node", write: false, logLevel: "error" };
  const { outputFiles } = await build({ entryPoints, ...options });
  return import(`data:text/javascript,${encodeURIComponent(outputFiles[0].text)}`);
}

async function compare(shape, params, { image, stages, tileTokens }, chunk, programs, folder) {
  const { name, batch, seqLen, dModel } = shape;
  const { tokens, count } = cut(shape, PIECE_FLOPS);
  const engine = await createEngine({ backend: "wasm", threads: 0, simd: "relaxed" });
  const layer = await engine.lru(params);
  const x = fillInput(engine.allocate(inputLength(shape)));
  const out = engine.allocate(x.length);
  const part = (array, at) => array.subarray(at * tokens * dModel, (at + 1) * tokens * dModel);
  const forward = (at) => layer.forward(part(x, at), { out: part(out, at) });

  const [{ groups, outWidth, B, lambdaT, powers, C, D }] = stages;
  const sizes = [dModel, groups, outWidth, tileTokens, chunk, batch * seqLen, tokens];
  const task = Int32Array.from([...sizes, B, lambdaT, powers, C, D, image.length]);
  const file = join(folder, name);
  writeFileSync(file, Buffer.concat([task, image, x].map(bytesOf)));
  const children = Object.entries(programs).map(([name, program]) => ({
    name,
    child: new LineProcess(program, [file]),
  }));
  const { child: same } = children.at(-1);
  const y = join(folder, "y");
  await same.ask("");
  await same.ask(`y ${y}`);
  await forward(0);
  if (!readFileSync(y).equals(bytesOf(part(out, 0))))
    throw new Error(`${name}: native/lru.c and linrec give other bits`);

  let at = 0;
  const linrec = async () => {
    const start = performance.now();
    await forward(at);
    at = (at + 1) % count;
    return performance.now() - start;
  };
  const contenders = [
    ...children.map(({ name, child }) => ({ name, run: async () => Number(await child.ask("")), taken: [] })),
    { name: "linrec, the same bits", run: linrec, taken: [] },
  ];
  const kernels = await compilePeak();
  const probe = await Probe.open(kernels.baseline, 1);
  for (const { run } of contenders) for (let i = 0; i < 50; i++) await run();
  let best = await calibrate(kernels.baseline, 300);
  let peak = 0;
  for (const end = performance.now() + 1000 * SECONDS; performance.now() < end; ) {
    for (const { run, taken } of contenders) taken.push(...(await probe.around(run, TURN_MS, true)));
    peak = Math.max(peak, await measurePeak(kernels.relaxed, 1, TURN_MS));
  }
  for (const { taken } of contenders) best = Math.min(best, leastProbe(taken));
  const atPeak = flopsOf(shape) / peak / 1e6;
  const said = (ms = Number.NaN) =>
    `${(count * ms).toPrecision(4)} ms, ${Math.round((100 * atPeak) / (count * ms))} %`;
  console.log(`${name}, peak ${peak.toFixed(1)} GFLOP/s, pieces of ${tokens} tokens`);
  for (const { name, taken } of contenders) {
    const calm = taken.filter((run) => isCalm(run, best));
    const [{ median, q1 }, { min }] = [summarize(timesOf(calm)), summarize(timesOf(taken))];
    console.log(
      `  ${name.padEnd(22)} calm ${said(median)}; lower quartile ${said(q1)}; ${calm.length} pieces; least of ${taken.length}: ${said(min)}`,
    );
  }
  for (const { child } of children) child.end();
  await engine.dispose();
}

function bytesOf({ buffer, byteOffset, byteLength }) {
  return Buffer.from(buffer, byteOffset, byteLength);
}
