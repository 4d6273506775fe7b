/** jax-js with its WebAssembly backend, compiled by jit. It has no scan: only formulations without one. */
import { readFileSync } from "node:fs";
import { paramsOf } from "../shapes.mjs";
import { build, choices, stateShape } from "./choices.mjs";
import { matrices } from "./matrices.mjs";
import { fitted, portionJob } from "./portions.mjs";

/** A 32-bit memory; what one run leaves is freed before the next, but not within it. */
const LIMIT = 3.5e9;

const kinds = [
  ["chunked", [16, 32, 64]],
  ["looped", [16]],
  ["logStep", [0]],
];

export async function open() {
  const jax = await import("@jax-js/jax");
  await jax.init("wasm");
  jax.defaultDevice("wasm");
  const threads = typeof Worker === "undefined" ? "1 thread: Node has no global Worker" : "its own threads";
  return {
    versions: { "@jax-js/jax": version() },
    notes: [threads],
    formulations: (shape) => choices(shape, kinds, LIMIT),
    async prepare(shape, chosen) {
      const formulation = fitted(shape, chosen);
      const { rows, L, kind, passesState } = formulation;
      const m = matrices(paramsOf(shape));
      const dims = [rows * L, shape.dModel];
      const ops = operations(jax.numpy);
      const forward = jax.jit((x, h0) => {
        const { y, state } = build(ops, x, shape, m, formulation, passesState ? h0 : undefined);
        return passesState ? { y, state: state() } : { y, state: [] };
      });
      const zeros = () => jax.numpy.zeros(stateShape(kind, rows, shape.dState));
      return portionJob(shape, formulation, {
        upload: (x) => jax.numpy.array(x).reshape(dims),
        async compute(x, before) {
          // A use takes a reference away: `.ref` keeps x for the next run.
          const { y, state } = forward(x.ref, passesState ? (before ?? [zeros(), zeros()]) : []);
          return { y: await y.data(), state };
        },
        drop(state) {
          for (const part of state) part.dispose();
        },
        release(inputs) {
          for (const x of inputs) x.dispose();
        },
      });
    },
  };
}

/** While jit traces, arrays are only descriptions: references that are left over cost nothing. */
function operations(np) {
  const all = (shape) => shape.map(() => []);
  return {
    constant: (make, shape) => np.array(make()).reshape(shape),
    matmul: (a, b) => np.matmul(a.ref, b.ref),
    gemm: (a, b, transA, transB) =>
      np.matmul(transA ? np.transpose(a.ref) : a.ref, transB ? np.transpose(b.ref) : b.ref),
    add: (a, b) => np.add(a.ref, b.ref),
    sub: (a, b) => np.subtract(a.ref, b.ref),
    mul: (a, b) => np.multiply(a.ref, b.ref),
    concat: (list, axis) =>
      np.concatenate(
        list.map((a) => a.ref),
        axis,
      ),
    reshape: (a, shape) => np.reshape(a.ref, shape),
    slice: (a, axis, from, to) => a.ref.slice(...all(a.shape).with(axis, [from, to])),
    padFront: (a, axis, n, shape) =>
      np.pad(
        a.ref,
        shape.map((_, i) => [i === axis ? n : 0, 0]),
      ),
  };
}

function version() {
  const entry = import.meta.resolve("@jax-js/jax");
  return JSON.parse(readFileSync(new URL("../package.json", entry), "utf8")).version;
}
