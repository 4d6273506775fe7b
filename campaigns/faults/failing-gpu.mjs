// A GPU that fails: at the Nth call of each kind, with a submit that is refused, or lost at any await, once and twice.
import { createHook } from "node:async_hooks";
import { readFileSync } from "node:fs";
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

/** A small classifier whose rate changes three times, and is pooled: with the parameters of a fixture, which has more in it. */
function classifier(linrec) {
  const fixture = new URL("../../test/fixtures/lrnnx/cls_06_regression_mixed.safetensors", import.meta.url);
  const tensors = [...linrec.readSafetensors(readFileSync(fixture)).tensors].filter(([name]) =>
    /^(input_proj|blocks|final_block)\./.test(name),
  );
  const spec = { architecture: "lrnnx/classifier", pooling: "max", poolingFactor: [5, 3, 2] };
  return [
    linrec.writeSafetensors(new Map(tensors)),
    { ...spec, intermediatePooling: ["none", "stride", "max"] },
  ];
}

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
  how: "The 1st, 2nd, 3rd … call of each kind to the GPU throws, and each submit is refused. The device is lost at the 1st, 2nd, 3rd … promise of making an engine and a layer, a forward in pieces, and a step, and at each third of two forwards of a network whose rate changes, whose segments overlap; once, and twice. So often can only a stand-in fail that keeps its kernels; a real device is destroyed a few times, and so is the GPU process of a browser.",
  plants: [
    {
      says: "a GPU error does not fall back",
      file: "src/engine/failover.ts",
      find: "this.#failed.add(name);",
      replace: "throw error;",
    },
    {
      says: "what is left goes on from the first state",
      file: "src/engine/rest.ts",
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
    /** What a GPU is used for, and how far it may be from the CPU. */
    const layer = {
      of: "",
      /** Promises from one at which the device is lost to the next. */
      step: isFull ? 1 : 29,
      limit: 5e-6,
      async work(engine) {
        const lru = await engine.lru(params);
        const { y, state } = await lru.forward(x, { batch, lengths: [500, 401] });
        const yt = await lru.step(xt, state);
        const { re, im } = state.get();
        return [y, yt, re, im];
      },
    };
    const network = {
      of: ", a network whose rate changes",
      step: isFull ? 3 : 149,
      limit: 5e-5,
      async work(engine) {
        const model = await engine.model(...classifier(linrec));
        const tokens = x.subarray(0, batch * 150 * model.inputWidth);
        const { y, state } = await model.forward(tokens, { batch, lengths: [150, 101] });
        const { y: later } = await model.forward(tokens, { batch, state });
        return [y, later];
      },
    };

    /** On an engine of its own. */
    const use = async (backend, gpu, { work }) => {
      const told = [];
      const engine = await linrec.createEngine({
        backend,
        threads: 0,
        gpu,
        onFallback: ({ to }) => told.push(to),
      });
      const outcome = await settled(
        work(engine).then((results) => ({ results, told })),
        60_000,
      );
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
    const figures = {};
    for (const subject of [layer, network]) {
      subject.onGpu = (await use("webgpu", gpu, subject)).value;
      subject.onCpu = (await use("wasm", undefined, subject)).value;
    }
    const isNear = (values, expected, limit) => {
      const scale = expected.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
      return values.every((v, j) => Math.abs(v - expected[j]) <= limit * scale);
    };
    const judge = (outcome, { of, limit, onGpu, onCpu }, moment) => {
      const what = `${moment}${of}`;
      if (outcome === "late") return fail(`${what}: never settled`);
      if (outcome.error) {
        const typed = isTyped(linrec, outcome.error)
          ? "not finished on the CPU"
          : "an error not from the list";
        return fail(`${what}: ${typed}: ${outcome.error}`);
      }
      const { results, told } = outcome.value;
      const same = results.every((values, i) => sameBits(values, onGpu.results[i]));
      if (!results.every((values, i) => isNear(values, onCpu.results[i], limit)))
        fail(`${what}: wrong numbers`);
      else if (!same && !told.includes("wasm")) fail(`${what}: other bits than without a fault`);
    };

    for (const subject of isFull ? [layer, network] : [layer]) {
      for (const name of calls) {
        let nth = 1;
        for (; isFull || nth <= 3; nth++) {
          let count = 0;
          const before = (call) => {
            if (call === name && ++count === nth) throw new Error(`${name} fails on purpose`);
          };
          faults = { ...quiet, before };
          judge(await use(["webgpu", "wasm"], gpu, subject), subject, `${name} ${nth} throws`);
          if (count < nth) break;
        }
        figures[`calls of ${name} that threw${subject.of}`] = nth - 1;
        if (nth === 1) fail(`${name} was never called`);
      }
    }
    for (const subject of [layer, network]) {
      let refused = 0;
      for (let reached = true; reached; ) {
        let count = 0;
        faults = { ...quiet, refuses: () => count++ === refused };
        judge(await use(["webgpu", "wasm"], gpu, subject), subject, `submit ${refused} is refused`);
        reached = count > refused;
        if (reached) refused++;
      }
      figures[`submits that were refused${subject.of}`] = refused;
      faults = quiet;

      for (const twice of [false, true]) {
        let [moments, finished] = [0, 0];
        for (let nth = 1, made = nth; made >= nth; nth += subject.step) {
          let stopAgain;
          const again = () => {
            lose();
            if (twice) stopAgain = atPromise(1 + ((7 * nth) % 97), lose);
          };
          const stop = atPromise(nth, again);
          const outcome = await use(["webgpu", "wasm"], gpu, subject);
          made = stop();
          stopAgain?.();
          judge(outcome, subject, `lost at promise ${nth}${twice ? " and again" : ""}`);
          if (outcome.value?.told.includes("wasm")) finished++;
          if (made >= nth) moments++;
        }
        const how = twice ? "twice" : "once";
        figures[`promises at which the device was lost ${how}${subject.of}`] = moments;
        if (twice) figures[`of these, finished on the CPU${subject.of}`] = finished;
      }
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
      const outcome = await use(["webgpu", "wasm"], { requestAdapter }, layer);
      if (stop() >= nth) destroyed++;
      judge(outcome, layer, `a real device is destroyed at promise ${nth}`);
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
