/** The machine's 128-bit FMA peak, and what reading memory costs, measured with assembly/peak.ts. */
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { Worker } from "node:worker_threads";

/** Flops of one round for each accumulator: 4 lanes, a multiplication and an addition each. */
const FLOPS = 4 * 2;
/** About a millisecond's worth: calls are short, so that V8's optimised code is taken up while it is measured. */
const ROUNDS = 300_000;
/** V8 optimises a function only after many calls, and a long call stays as slow as it started: warm up with short ones. */
const WARM_UP_CALLS = 3000;
const WARM_UP_ROUNDS = 50;

/** Compiles peak.ts: { relaxed, baseline }, bytes of two modules. Takes a second or so. */
export async function compilePeak() {
  const { default: asc } = await import("assemblyscript/asc");
  const source = fileURLToPath(new URL("assembly/peak.ts", import.meta.url));
  const compile = async (...flags) => {
    let bytes;
    const { error, stderr } = await asc.main(
      [
        source,
        "--outFile",
        "peak.wasm",
        "-O3",
        "--noAssert",
        "--runtime",
        "stub",
        "--enable",
        "simd",
        ...flags,
      ],
      // Nothing is written to disk: the output is taken from here.
      {
        writeFile(name, data) {
          if (name.endsWith(".wasm")) bytes = data;
        },
      },
    );
    if (error) throw new Error(`peak.ts does not compile: ${stderr}`);
    return bytes;
  };
  return {
    relaxed: await compile("--enable", "relaxed-simd"),
    baseline: await compile(),
  };
}

/** V8 before version 12 (Node 20) has relaxed SIMD only behind this. The machine's peak does not depend on it; what linrec runs does. */
const RELAXED_FLAG = "--experimental-wasm-relaxed-simd";

/** Measured in the process that calls, whose engines have been made: GFLOP/s on the calling thread or, for 2 threads or more, of that many workers. */
export async function measurePeak(bytes, threads, ms) {
  if (!WebAssembly.validate(bytes)) setFlagsFromString(RELAXED_FLAG);
  if (threads === 1) return runPeak(instantiate(bytes), ms);
  const rates = await Promise.all(Array.from({ length: threads }, () => peakInWorker(bytes, ms)));
  return rates.reduce((sum, rate) => sum + rate, 0);
}

/** A function that reads `size` bytes, the same each time: out of whichever cache they fit in. */
export async function reader(bytes, size) {
  const { memory, read } = instantiate(bytes);
  memory.grow(Math.ceil(size / 65536));
  await warmUp((rounds) => read(0, rounds * 128));
  const whole = size - (size % 128);
  return () => read(65536, whole);
}

const instances = new Map();

/** One instance for each module in a process: what is optimised once stays so. */
export function instantiate(bytes) {
  const known = instances.get(bytes.length);
  if (known) return known;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { abort() {} } });
  exports.memory.grow(1); // peak.ts reads a little of it
  instances.set(bytes.length, exports);
  return exports;
}

/** The better of two kernels. The kernels get half of the time each. */
async function runPeak({ peak12, peak10 }, ms) {
  return Math.max(await rateOf(peak12, 12, ms / 2), await rateOf(peak10, 10, ms / 2));
}

/** Calls a kernel often and briefly, until V8 has optimised it. */
export async function warmUp(call) {
  for (let time = 0; time < 3; time++) {
    for (let i = 0; i < WARM_UP_CALLS; i++) call(WARM_UP_ROUNDS);
    await new Promise((resolve) => setTimeout(resolve, 30)); // the optimised code comes from another thread
  }
}

/** The median of what calls of about a millisecond reached. */
async function rateOf(kernel, accumulators, ms) {
  await warmUp((rounds) => kernel(rounds, 0.75, 0.25));
  const rates = [];
  const end = performance.now() + ms;
  for (let before = performance.now(); before < end || rates.length === 0; ) {
    kernel(ROUNDS, 0.75, 0.25);
    const now = performance.now();
    rates.push((ROUNDS * accumulators * FLOPS) / (now - before) / 1e6);
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
