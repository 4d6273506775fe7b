/** TensorFlow.js with its WebAssembly backend. In Node it runs on one thread. */
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { paramsOf } from "../shapes.mjs";
import { build, choices, stateShape } from "./choices.mjs";
import { matrices } from "./matrices.mjs";
import { fitted, portionJob } from "./portions.mjs";

const require = createRequire(import.meta.url);

/** Its memory does not grow beyond 2 GiB. */
const LIMIT = 1.8e9;

const kinds = [
  ["chunked", [16, 32]],
  ["looped", [16, 32, 64]],
  ["logStep", [0]],
];

export async function open() {
  const tf = require("@tensorflow/tfjs-core");
  const wasm = require("@tensorflow/tfjs-backend-wasm");
  const folder = dirname(require.resolve("@tensorflow/tfjs-backend-wasm"));
  wasm.setWasmPaths(`${folder}/`);
  if (!(await tf.setBackend("wasm"))) throw new Error("its WebAssembly backend does not start");
  await tf.ready();
  return {
    versions: {
      "@tensorflow/tfjs-backend-wasm": wasm.version_wasm,
      "@tensorflow/tfjs-core": tf.version_core,
    },
    notes: [`SIMD ${await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT")}, threads ${wasm.getThreadsCount()}`],
    formulations: (shape) => choices(shape, kinds, LIMIT),
    async prepare(shape, chosen) {
      const formulation = fitted(shape, chosen);
      const { rows, L, kind, passesState } = formulation;
      const m = matrices(paramsOf(shape));
      const { ops, dispose } = operations(tf);
      const dims = [rows * L, shape.dModel];
      const zeros = () => tf.zeros(stateShape(kind, rows, shape.dState));
      return portionJob(shape, formulation, {
        upload: (x) => tf.tensor(x, dims, "float32"),
        compute(x, before) {
          ops.restart();
          const { y, state } = tf.tidy(() => {
            const h0 = passesState ? (before ?? [zeros(), zeros()]) : undefined;
            const result = build(ops, x, shape, m, formulation, h0);
            return { y: result.y, state: passesState ? result.state() : undefined };
          });
          tf.dispose(before);
          const data = y.dataSync();
          y.dispose();
          return { y: data, state };
        },
        drop: (state) => tf.dispose(state),
        release(inputs) {
          dispose();
          tf.dispose(inputs);
        },
      });
    },
  };
}

/** Constants are made in the first run and kept: a program asks for them in the same order every time. */
function operations(tf) {
  const constants = [];
  let next = 0;
  const ops = {
    restart: () => {
      next = 0;
    },
    constant(make, shape) {
      const index = next++;
      constants[index] ??= tf.keep(tf.tensor(make(), shape, "float32"));
      return constants[index];
    },
    matmul: (a, b) => tf.matMul(a, b),
    gemm: (a, b, transA, transB) => tf.matMul(a, b, transA, transB),
    add: tf.add,
    sub: tf.sub,
    mul: tf.mul,
    concat: (list, axis) => tf.concat(list, axis),
    reshape: (a, shape) => tf.reshape(a, shape),
    slice(a, axis, from, to) {
      const begin = a.shape.map((_, i) => (i === axis ? from : 0));
      return tf.slice(
        a,
        begin,
        a.shape.map((size, i) => (i === axis ? to - from : size)),
      );
    },
    padFront: (a, axis, n, shape) =>
      tf.pad(
        a,
        shape.map((_, i) => [i === axis ? n : 0, 0]),
      ),
  };
  return { ops, dispose: () => tf.dispose(constants) };
}
