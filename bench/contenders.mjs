/** Who takes part: linrec in each of its modes, and the peers that a JavaScript user would pick, and PyTorch. */

const linrec = (id, label, threads, options = {}) => ({
  id,
  label: `linrec, ${label}`,
  peer: "linrec",
  module: "./peers/linrec.mjs",
  threads: Math.max(1, threads),
  options: { threads, memory: "engine", simd: "auto", ...options },
});

const peer = (id, label, module, threads = 1, options = {}) => ({
  id,
  label,
  peer: id.replace(/-\d$/, ""),
  module: `./peers/${module}.mjs`,
  threads,
  options: { threads, ...options },
});

/** Each in rows of its own: which is faster on a part of a long sequence says little about all of it. */
const torchWays = { lrnnx: "lrnnx's layer", fft: "FFT", doubling: "doubling" };

export const contenders = [
  linrec("linrec", "calling thread", 0),
  linrec("linrec-2", "2 threads", 2),
  linrec("linrec-copy", "calling thread, ordinary arrays", 0, { memory: "ordinary" }),
  linrec("linrec-copy-2", "2 threads, ordinary arrays", 2, { memory: "ordinary" }),
  linrec("linrec-transfer-2", "2 threads, messages (no shared memory)", 2, { memory: "private" }),
  linrec("linrec-baseline", "calling thread, baseline SIMD", 0, { simd: "baseline" }),
  linrec("linrec-baseline-2", "2 threads, baseline SIMD", 2, { simd: "baseline" }),
  peer("ort-web-1", "onnxruntime-web, 1 thread", "ort", 1, { web: true }),
  peer("ort-web-2", "onnxruntime-web, 2 threads", "ort", 2, { web: true }),
  peer("ort-node-1", "onnxruntime-node, 1 thread (native)", "ort", 1, { web: false }),
  peer("ort-node-2", "onnxruntime-node, 2 threads (native)", "ort", 2, { web: false }),
  peer("tfjs-1", "tfjs, wasm backend", "tfjs"),
  peer("jax-1", "jax-js, wasm backend", "jax"),
  ...["lrnnx", "fft", "doubling"].flatMap((way) => [
    peer(`torch-${way}-1`, `PyTorch, ${torchWays[way]}, 1 thread (native)`, "torch", 1, { way }),
    peer(`torch-${way}-2`, `PyTorch, ${torchWays[way]}, 2 threads (native)`, "torch", 2, { way }),
  ]),
  peer("loop-1", "hand-tuned Float32Array loop", "loop"),
];
