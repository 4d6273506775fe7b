/** The machine's 128-bit FMA peak, and what reading memory costs, measured with assembly/peak.ts. */
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";

/** 12 accumulators of 4 lanes, a multiplication and an addition each. */
const FLOPS_A_ROUND = 12 * 4 * 2;
/** About a millisecond's worth: calls are short, so that V8's optimised code is taken up while it is measured. */
const ROUNDS = 500_000;

/** Compiles peak.ts: { relaxed, baseline }, bytes of two modules. Takes a second or so. */
export async function compilePeak() {
  const { default: asc } = await import("assemblyscript/asc");
  const source = fileURLToPath(new URL("assembly/peak.ts", import.meta.url));
  const compile = async (...flags) => {
    let bytes;
    const { error, stderr } = await asc.main(
      [source, "--outFile", "peak.wasm", "-O3", "--noAssert", "--runtime", "stub", "--enable", "simd", ...flags],
      // Nothing is written to disk: the output is taken from here.
      { writeFile: (name, data) => (name.endsWith(".wasm") ? (bytes = data) : undefined) },
    );
    if (error) throw new Error(`peak.ts does not compile: ${stderr}`);
    return bytes;
  };
  return {
    relaxed: await compile("--enable", "relaxed-simd"),
    baseline: await compile("--use", "ASC_FEATURE_RELAXED_SIMD=0"),
  };
}

/** Measured in the process that calls: GFLOP/s on the calling thread or, for 2 threads or more, of that many workers. */
export async function measurePeak(bytes, threads, ms) {
  if (threads === 1) return runPeak(instantiate(bytes), ms);
  const rates = await Promise.all(Array.from({ length: threads }, () => peakInWorker(bytes, ms)));
  return rates.reduce((sum, rate) => sum + rate, 0);
}

/** Microseconds to read `size` bytes again and again, the median: out of whichever cache they fit in. */
export function measureRead(bytes, size) {
  const { memory, read } = instantiate(bytes);
  memory.grow(Math.ceil(size / 65536) + 1);
  const whole = size - (size % 128);
  const times = [];
  for (let i = 0; i < 2000; i++) {
    const start = performance.now();
    read(65536, whole);
    times.push(1000 * (performance.now() - start));
  }
  return times.sort((a, b) => a - b)[1000];
}

function instantiate(bytes) {
  return new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { abort() {} } }).exports;
}

/** The median of what calls of about a millisecond reached, after some to warm up. */
function runPeak({ peak }, ms) {
  const rates = [];
  const warm = performance.now() + ms / 3;
  const end = warm + ms;
  for (let before = performance.now(); before < end || rates.length === 0; ) {
    peak(ROUNDS);
    const now = performance.now();
    if (now > warm) rates.push((ROUNDS * FLOPS_A_ROUND) / (now - before) / 1e6);
    before = now;
  }
  return rates.sort((a, b) => a - b)[rates.length >> 1];
}

function peakInWorker(bytes, ms) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("peakWorker.mjs", import.meta.url), { workerData: { bytes, ms } });
    worker.once("message", resolve).once("error", reject);
  });
}

/** For peakWorker.mjs. */
export const peakHere = (bytes, ms) => runPeak(instantiate(bytes), ms);
