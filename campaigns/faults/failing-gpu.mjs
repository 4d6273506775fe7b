// A GPU that fails: at the Nth call of each kind, or lost at any await.
import { createHook } from "node:async_hooks";
import { floats, isTyped, lruParams, settled } from "../support.mjs";

/** A GPU whose objects call `before(name)` ahead of each method; it may throw, or return a promise to give instead. */
function watched(object, before, wrapped = new WeakMap()) {
  if (typeof object !== "object" || object === null) return object;
  const known = wrapped.get(object);
  if (known) return known;
  const proxy = new Proxy(object, {
    get(target, key) {
      const value = Reflect.get(target, key, target);
      if (typeof value !== "function") return key === "queue" ? watched(value, before, wrapped) : value;
      return (...args) => {
        before(String(key));
        const result = value.apply(
          target,
          args.map((arg) => unwrap(arg)),
        );
        if (result instanceof Promise) return result.then((r) => wrap(String(key), r));
        return wrap(String(key), result);
      };
    },
  });
  const inside = ["requestAdapter", "requestDevice"];
  const wrap = (key, result) => (inside.includes(key) ? watched(result, before, wrapped) : result);
  wrapped.set(object, proxy);
  unwrapped.set(proxy, object);
  return proxy;
}

const unwrapped = new WeakMap();
const unwrap = (value) => unwrapped.get(value) ?? value;

const calls = [
  "requestAdapter",
  "requestDevice",
  "createBuffer",
  "createComputePipelineAsync",
  "createBindGroup",
  "createCommandEncoder",
  "writeBuffer",
  "submit",
  "popErrorScope",
];

export default {
  promise:
    "A GPU that fails or is lost never gives wrong numbers: the CPU finishes the work, or an error from the list says why not.",
  how: "The 1st, 2nd, 3rd … call of each kind to the GPU throws; the device is destroyed at the 1st, 2nd, 3rd … promise of making a layer and of a forward.",
  plants: [
    {
      says: "a GPU error does not fall back",
      file: "src/failover.ts",
      find: "this.#failed.add(name);",
      replace: "throw error;",
    },
  ],
  async run({ linrec, isFull, fail }) {
    let gpu;
    try {
      const { create } = await import("webgpu");
      gpu = create([]);
      if (!(await gpu.requestAdapter())) gpu = undefined;
    } catch {}
    if (!gpu) throw new Error("there is no WebGPU in this process: install the package webgpu");
    const params = lruParams(linrec, 8, 8);
    const batch = 2;
    const x = floats(batch * 500 * 8, 1);
    const alone = await linrec.createEngine({ backend: "wasm", threads: 0 });
    const expected = await (await alone.lru(params)).forward(x, { batch });
    const near = (y) => {
      const scale = expected.y.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
      return y.every((v, i) => Math.abs(v - expected.y[i]) <= 5e-6 * scale);
    };
    const figures = {};
    const attempt = async (before, what) => {
      const engine = await linrec.createEngine({
        backend: ["webgpu", "wasm"],
        threads: 0,
        gpu: watched(gpu, before),
        onFallback: () => {},
      });
      const outcome = await settled((async () => (await engine.lru(params)).forward(x, { batch }))(), 60_000);
      if (outcome === "late") fail(`${what}: never settled`);
      else if (outcome.error) {
        fail(
          `${what}: ${isTyped(linrec, outcome.error) ? "not finished on the CPU" : "an error not from the list"}: ${outcome.error}`,
        );
      } else if (!near(outcome.value.y)) fail(`${what}: wrong numbers`);
      await settled(engine.dispose(), 30_000);
    };
    for (const name of calls) {
      let nth = 1;
      for (; nth < (isFull ? 200 : 4); nth++) {
        let count = 0;
        await attempt((call) => {
          if (call === name && ++count === nth) throw new Error(`${name} fails on purpose`);
        }, `${name} ${nth} throws`);
        if (count < nth) break;
      }
      figures[`calls of ${name} that failed`] = nth - 1;
    }
    let moments = 0;
    for (let nth = 1; ; nth += isFull ? 1 : 40) {
      let device;
      let made = 0;
      const hook = createHook({
        init(_id, type) {
          if (type === "PROMISE" && ++made === nth) queueMicrotask(() => device?.destroy());
        },
      });
      const real = {
        requestAdapter: async (o) => {
          const adapter = await gpu.requestAdapter(o);
          return new Proxy(adapter, {
            get: (t, k) => {
              const v = Reflect.get(t, k, t);
              if (k === "requestDevice")
                return async (...a) => {
                  device = await t.requestDevice(...a);
                  return device;
                };
              return typeof v === "function" ? v.bind(t) : v;
            },
          });
        },
      };
      hook.enable();
      const engine = await linrec.createEngine({
        backend: ["webgpu", "wasm"],
        threads: 0,
        gpu: real,
        onFallback: () => {},
      });
      const outcome = await settled((async () => (await engine.lru(params)).forward(x, { batch }))(), 60_000);
      hook.disable();
      const what = `the device is destroyed at promise ${nth}`;
      if (outcome === "late") fail(`${what}: never settled`);
      else if (outcome.error) fail(`${what}: ${outcome.error}`);
      else if (!near(outcome.value.y)) fail(`${what}: wrong numbers`);
      await settled(engine.dispose(), 30_000);
      if (made < nth) break;
      moments++;
    }
    figures["moments at which the device was destroyed"] = moments;
    await alone.dispose();
    return figures;
  },
};
