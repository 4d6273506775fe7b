/** The machine's 128-bit FMA peak, and what reading memory costs, measured with assembly/peak.ts. */
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { Worker } from "node:worker_threads";
import { instantiate, peakHere, warmUp } from "./rate.mjs";

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
  if (threads === 1) return peakHere(bytes, ms);
  const rates = await Promise.all(Array.from({ length: threads }, () => peakInWorker(bytes, ms)));
  return rates.reduce((sum, rate) => sum + rate, 0);
}

/** A function that reads `size` bytes, the same each time: out of whichever cache they fit in. */
export async function reader(bytes, size) {
  const { memory, read } = instantiate(bytes);
  memory.grow(Math.ceil(size / 65536));
  // Memory that was never written is one page of zeros over and over, which would be read from L1.
  new Uint8Array(memory.buffer, 65536, size).fill(1);
  await warmUp((rounds) => read(0, rounds * 128));
  const whole = size - (size % 128);
  return () => read(65536, whole);
}

function peakInWorker(bytes, ms) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("peakWorker.mjs", import.meta.url), { workerData: { bytes, ms } });
    worker.once("message", resolve).once("error", reject);
  });
}
