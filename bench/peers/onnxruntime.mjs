/** How onnxruntime computes an LRU, in Node or in a page: onnxruntime-web (WebAssembly) or onnxruntime-node (native). */
import { paramsOf } from "../shapes.mjs";
import { build, choices, MEMORY_LIMIT, stateShape } from "./choices.mjs";
import { matrices } from "./matrices.mjs";
import { GraphBuilder, model } from "./onnx.mjs";
import { fitted, portionJob } from "./portions.mjs";

/** A 32-bit memory, less what the runtime and copies of x and y take. */
const WEB_LIMIT = 3.5e9;

const kinds = [
  ["chunked", [16, 32, 64]],
  ["looped", [32]],
  ["logStep", [0]],
  ["scanOp", [0]],
];

/** @param {{ web: boolean, threads: number }} options */
export function contenderOf({ InferenceSession, Tensor, env }, { web, threads }) {
  env.logLevel = "error";
  if (web) env.wasm.numThreads = threads;
  const options = {
    executionProviders: [web ? "wasm" : "cpu"],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3,
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
  };
  return {
    formulations: (shape) => choices(shape, kinds, web ? WEB_LIMIT : MEMORY_LIMIT),
    async prepare(shape, chosen) {
      const formulation = fitted(shape, chosen);
      const { rows, L, kind, passesState } = formulation;
      const dims = [rows * L, shape.dModel];
      const stateDims = stateShape(kind, rows, shape.dState);
      const graph = new GraphBuilder();
      const h0 = passesState ? ["h0Re", "h0Im"] : [];
      const built = build(
        graph,
        "x",
        shape,
        matrices(paramsOf(shape)),
        formulation,
        passesState ? h0 : undefined,
      );
      const h = passesState ? built.state() : [];
      const states = (names) => names.map((name) => [name, stateDims]);
      const bytes = model(graph.graph("lru", [["x", dims], ...states(h0)], [[built.y, dims], ...states(h)]));
      const session = await InferenceSession.create(bytes, options);
      const zeros = h0.map(() => new Tensor("float32", new Float32Array(rows * shape.dState), stateDims));
      return portionJob(shape, formulation, {
        upload: (x) => new Tensor("float32", x, dims),
        async compute(x, state = zeros) {
          const results = await session.run({
            x,
            ...Object.fromEntries(h0.map((name, i) => [name, state[i]])),
          });
          return { y: results[built.y].data, state: h.map((name) => results[name]) };
        },
        release: () => session.release(),
      });
    },
  };
}
