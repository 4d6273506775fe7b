// A GPU that fails: at the Nth call of each kind, with a submit that is refused, or lost at any await, once and twice.
import { createHook } from "node:async_hooks";
import { floats, isTyped, lruParams, sameBits, settled } from "../support.mjs";
import { crashBrowser } from "./crashedBrowser.mjs";
import { limits, lossyGpu } from "./lossyGpu.mjs";

const calls = [
  "requestAdapter",
  "requestDevice",
  "createBuffer",
  "createShaderModule",
  "createComputePipelineAsync",
  "createBindGroup",
  "createCommandEncoder",
  "writeBuffer",
  "submit",
  "pushErrorScope",
  "popErrorScope",
  "mapAsync",
  "getMappedRange",
];

/** Calls `then` when promise number `nth` is made from now on, however deep inside. */
function atPromise(nth, then) {
  let made = 0;
  const hook = createHook({
    init(_id, type) {
      if (type === "PROMISE" && ++made === nth) queueMicrotask(then);
    },
  });
  hook.enable();
  return () => {
    hook.disable();
    return made;
  };
}

export default {
  promise:
    "A GPU that fails or is lost never gives wrong numbers: opened anew it gives the same bits, the CPU finishes from its last state, or an error from the list says why not.",
  how: "The 1st, 2nd, 3rd … call of each kind to the GPU throws, and each submit is refused. The device is lost at the 1st, 2nd, 3rd … promise of making an engine and a layer, a forward in pieces, and a step; once, and twice. So often can only a stand-in fail that keeps its kernels; a real device is destroyed a few times, and so is the GPU process of a browser.",
  plants: [
    {
      says: "a GPU error does not fall back",
      file: "src/failover.ts",
      find: "this.#failed.add(name);",
      replace: "throw error;",
    },
    {
      says: "what is left goes on from the first state",
      file: "src/rest.ts",
      find: "start > 0 ? reached : job.state",
      replace: "job.state",
    },
    {
      says: "error scopes are not waited for",
      file: "src/webgpu/runner.ts",
      find: "Promise.all([value.done, clean])",
      replace: "value.done",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const { create } = await import("webgpu");
    const real = create([]);
    const adapter = await real.requestAdapter();
    if (!adapter) throw new Error("there is no WebGPU in this process: install the package webgpu");
    const device = await adapter.requestDevice();
    const params = lruParams(linrec, 8, 8);
    const batch = 2;
    const x = floats(batch * 500 * 8, 1);
    const xt = floats(batch * 8, 2);

    /** All that a GPU is used for, on an engine of its own. */
    const use = async (backend, gpu) => {
      const told = [];
      const engine = await linrec.createEngine({
        backend,
        threads: 0,
        gpu,
        onFallback: ({ to }) => told.push(to),
      });
      const work = async () => {
        const lru = await engine.lru(params);
        const { y, state } = await lru.forward(x, { batch, lengths: [500, 401] });
        const yt = await lru.step(xt, state);
        const { re, im } = state.get();
        return { results: [y, yt, re, im], told };
      };
      const outcome = await settled(work(), 60_000);
      await settled(engine.dispose(), 30_000);
      return outcome;
    };
    let faults = {};
    const quiet = { before() {}, refuses: () => false };
    const { gpu, lose } = lossyGpu(device, adapter, {
      before: (name) => faults.before(name),
      refuses: () => faults.refuses(),
    });
    faults = quiet;
    const onGpu = (await use("webgpu", gpu)).value;
    const onCpu = (await use("wasm")).value;
    const near = (values, i) => {
      const scale = onCpu.results[i].reduce((max, v) => Math.max(max, Math.abs(v)), 0);
      return values.every((v, j) => Math.abs(v - onCpu.results[i][j]) <= 5e-6 * scale);
    };
    const judge = (outcome, what) => {
      if (outcome === "late") return fail(`${what}: never settled`);
      if (outcome.error) {
        const typed = isTyped(linrec, outcome.error)
          ? "not finished on the CPU"
          : "an error not from the list";
        return fail(`${what}: ${typed}: ${outcome.error}`);
      }
      const { results, told } = outcome.value;
      const same = results.every((values, i) => sameBits(values, onGpu.results[i]));
      if (!results.every(near)) fail(`${what}: wrong numbers`);
      else if (!same && !told.includes("wasm")) fail(`${what}: other bits than without a fault`);
    };

    const figures = {};
    for (const name of calls) {
      let nth = 1;
      for (; isFull || nth <= 3; nth++) {
        let count = 0;
        const before = (call) => {
          if (call === name && ++count === nth) throw new Error(`${name} fails on purpose`);
        };
        faults = { ...quiet, before };
        judge(await use(["webgpu", "wasm"], gpu), `${name} ${nth} throws`);
        if (count < nth) break;
      }
      figures[`calls of ${name} that threw`] = nth - 1;
      if (nth === 1) fail(`${name} was never called`);
    }
    let refused = 0;
    for (let reached = true; reached; ) {
      let count = 0;
      faults = { ...quiet, refuses: () => count++ === refused };
      judge(await use(["webgpu", "wasm"], gpu), `submit ${refused} is refused`);
      reached = count > refused;
      if (reached) refused++;
    }
    figures["submits that were refused"] = refused;
    faults = quiet;

    for (const twice of [false, true]) {
      let [moments, finished] = [0, 0];
      for (let nth = 1, made = nth; made >= nth; nth += isFull ? 1 : 29) {
        let stopAgain;
        const again = () => {
          lose();
          if (twice) stopAgain = atPromise(1 + ((7 * nth) % 97), lose);
        };
        const stop = atPromise(nth, again);
        const outcome = await use(["webgpu", "wasm"], gpu);
        made = stop();
        stopAgain?.();
        judge(outcome, `lost at promise ${nth}${twice ? " and again" : ""}`);
        if (outcome.value?.told.includes("wasm")) finished++;
        if (made >= nth) moments++;
      }
      const how = twice ? "twice" : "once";
      figures[`promises at which the device was lost ${how}`] = moments;
      if (twice) figures["of these, finished on the CPU"] = finished;
    }

    let destroyed = 0;
    for (let nth = 1; isFull && nth <= 800; nth += 80) {
      let handle;
      const requestAdapter = async () => {
        const adapter = await real.requestAdapter();
        const requestDevice = async () => {
          handle = await adapter.requestDevice();
          Object.defineProperty(handle, "limits", { value: limits }); // the same pieces, for the same bits
          return handle;
        };
        return { limits: adapter.limits, info: adapter.info, requestDevice };
      };
      const stop = atPromise(nth, () => handle?.destroy());
      const outcome = await use(["webgpu", "wasm"], { requestAdapter });
      if (stop() >= nth) destroyed++;
      judge(outcome, `a real device is destroyed at promise ${nth}`);
    }
    figures["real devices that were destroyed"] = destroyed;

    if (isFull) {
      const { reason, crashes, y, h } = await crashBrowser();
      figures["crashes of a browser's GPU process"] = reason ?? crashes;
      if (!reason && !(Math.max(y, h) < 5e-6)) fail(`after ${crashes} crashes: wrong by ${y} and ${h}`);
    }
    return figures;
  },
};
