/** What an engine makes of the scheduler: `explain`, `backends`, the backend of a layer, and the rate that it is told. */
import { afterAll, describe, expect, test, vi } from "vitest";
import { openWasm } from "../src/cpu/backend.js";
import { compileKernels } from "../src/cpu/kernels.js";
import { startWorkers } from "../src/cpu/pool.js";
import { createEngine, type Engine, initLru, LinrecError, writeSafetensors } from "../src/index.js";
import { parts } from "../src/parts.js";
import { expectSameBits } from "./support/bits.js";
import { loadGolden } from "./support/golden.js";
import { floats, hardParams } from "./support/problems.js";

test("the CPU's rate rises with what a forward has reached, and never falls", async () => {
  const options = {
    threads: 0,
    sharedMemory: false,
    workerUrl: undefined,
    wasm: undefined,
    onTrouble: () => {},
  };
  const backend = await openWasm({ simd: "baseline", ...options });
  backend.observe(1e12); // nothing was measured yet that this could be more than
  const measured = backend.measure();
  expect(measured).toBeLessThan(1e12);
  backend.observe(measured / 2);
  expect(backend.measure()).toBe(measured);
  backend.observe(2 * measured);
  expect(backend.measure()).toBe(2 * measured);
  backend.dispose();
});

test("what a message takes is measured where a clock ticks seldom, too", async () => {
  const { module } = await compileKernels("baseline", false, undefined);
  let calls = 0;
  const clock = vi.spyOn(performance, "now");
  for (const [ticks, least, most] of [
    [0.3, 0.6, 0.6],
    [0.5, 0.8, 1.2], // the best of some hops is 0, five of them two or three ticks
    [0, 0.2, 0.2], // not one tick: what is taken for typical
  ] as const) {
    clock.mockImplementation(() => (ticks < 0.5 ? ticks * calls++ : Math.floor(ticks * calls++)));
    const { workers, hopMs } = await startWorkers(1, { module, memory: null }, undefined);
    expect(hopMs).toBeGreaterThan(least - 1e-9);
    expect(hopMs).toBeLessThan(most + 1e-9);
    for (const worker of workers) worker.terminate();
  }
  clock.mockRestore();
});

describe("an engine", () => {
  const engines: Engine[] = [];
  const open = async (options: Parameters<typeof createEngine>[0]) => {
    const engine = await createEngine(options);
    engines.push(engine);
    return engine;
  };
  afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

  test("explain says what would run, and why", async () => {
    const engine = await open({ backend: ["wasm", "webgpu"], threads: 2 });
    const problem = { dModel: 64, dState: 64, seqLen: 4096, batch: 4 };
    expect(engine.explain("forward", problem)).toMatchObject({
      backend: "wasm",
      threads: 2,
      verb: "forward",
    });
    expect(engine.explain("step", problem)).toMatchObject({ backend: "wasm", threads: 0, verb: "step" });
    const timed = { ...problem, integrationTimesteps: true };
    expect(engine.explain("forward", timed).ms).toBeGreaterThan(engine.explain("forward", problem).ms);
    const costs = [1, 2, 4].map((layers) => engine.explain("forward", { ...problem, layers }).ms);
    expect(costs).toEqual([...costs].sort((a, b) => a - b));
    expect(costs[2]).toBeGreaterThan(costs[0] as number);
  });

  test("backends: what is here, and why what is not here is not", async () => {
    const engine = await open({ backend: "wasm", threads: 1 });
    const { reference, wasm, webgpu } = engine.backends;
    expect([reference.available, wasm.available, webgpu.available]).toEqual([true, true, false]);
    expect(wasm.reason).toMatch(
      /(baseline|relaxed) SIMD, \d+\.\d GFLOP\/s on one thread; up to 1 worker thread/,
    );
    expect(webgpu.reason).toMatch(/not looked for.*"wasm"/);
    const alone = await open({ backend: "wasm", threads: 0 });
    expect(alone.backends.wasm.reason).toMatch(/calling thread only/);
    const all = await open({ threads: 0 });
    expect(all.backends.webgpu.reason).not.toBe("");
    const adapterless = await open({ threads: 0, gpu: { requestAdapter: async () => null } });
    expect(adapterless.backends.webgpu).toMatchObject({
      available: false,
      reason: expect.stringMatching(/adapter/),
    });
  });

  test("backend of a layer and of a model", async () => {
    const { checkpoint, spec } = await loadGolden("ml_cls_03_last");
    for (const backend of ["reference", "wasm"] as const) {
      const engine = await open({ backend, threads: 0 });
      const lru = await engine.lru(initLru({ dModel: 4, dState: 4 }));
      const model = await engine.model(writeSafetensors(checkpoint), spec);
      expect([lru.backend, model.backend]).toEqual([backend, backend]);
    }
  });

  test("the backend of one forward is not that of the next", async () => {
    const engine = await open({ backend: "wasm", threads: 0 });
    const lru = await engine.lru(hardParams(5, 7, 1));
    const x = floats(50 * 5, 2);
    const ys: Float32Array[] = [];
    for (const backend of ["wasm", "reference", undefined, ["reference", "wasm"]] as const)
      ys.push((await lru.forward(x, { backend })).y);
    const [cpu, oracle, alsoCpu, alsoOracle] = ys as [Float32Array, Float32Array, Float32Array, Float32Array];
    expect(oracle).not.toEqual(cpu);
    expectSameBits(alsoCpu, cpu, "the engine's own");
    expectSameBits(alsoOracle, oracle, "the first of a list");
  });

  test("a backend that could not be prepared once is tried again", async () => {
    const engine = await open({ backend: "wasm", threads: 0 });
    const lru = await engine.lru(hardParams(5, 7, 1));
    const load = vi.spyOn(parts, "reference");
    load.mockRejectedValueOnce(new LinrecError("load-failed", "There is no network."));
    const forward = () => lru.forward(floats(50, 2), { backend: "reference" });
    await expect(forward()).rejects.toMatchObject({ code: "load-failed" });
    await forward();
    expect(load).toHaveBeenCalledTimes(2);
    load.mockRestore();
  });

  test("a software GPU is right, and not chosen by auto", async (context) => {
    const engine = await open({ threads: 0 });
    const { available, reason } = engine.backends.webgpu;
    if (!available) context.skip(reason);
    if (!/software/.test(reason)) context.skip(`this GPU is no software: ${reason}`);
    const lru = await engine.lru(initLru({ dModel: 4, dState: 4 }));
    expect(lru.backend).toBe("wasm");
    const { backend, candidates } = engine.explain("forward", { dModel: 512, dState: 512, seqLen: 1e6 });
    expect(backend).toBe("wasm");
    expect(candidates.find(({ backend }) => backend === "webgpu")?.reason).toMatch(/software/);
  });
});
