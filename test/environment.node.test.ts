/** What is said of runtimes other than the one that the tests run in: their threads, their cores, their GPU. */
import { afterEach, expect, test, vi } from "vitest";
import { createEngine, initLru } from "../src/index.js";
import { parts } from "../src/parts.js";
import { sharedMemorySupport, threadCount } from "../src/runtime/environment.js";
import { findGpu } from "../src/runtime/findGpu.js";

afterEach(() => {
  vi.unstubAllGlobals();
});

const noNode = () => vi.stubGlobal("process", Object.create(process, { versions: { value: {} } }));

test("memory is shared where it may be", () => {
  expect(sharedMemorySupport()).toEqual({ available: true, reason: "threads share memory" });
  vi.stubGlobal("crossOriginIsolated", true);
  vi.stubGlobal("document", {});
  expect(sharedMemorySupport().available).toBe(true);
  vi.stubGlobal("crossOriginIsolated", false);
  expect(sharedMemorySupport()).toEqual({
    available: false,
    reason: expect.stringMatching(/not cross-origin isolated.*same-origin.*messages/),
  });
  vi.stubGlobal("document", undefined);
  expect(sharedMemorySupport().available, "in a worker that has the constructor").toBe(true);
  vi.stubGlobal("SharedArrayBuffer", undefined);
  expect(sharedMemorySupport()).toEqual({
    available: false,
    reason: expect.stringMatching(/not cross-origin isolated.*same-origin.*require-corp/),
  });
  vi.stubGlobal("crossOriginIsolated", true);
  expect(sharedMemorySupport().reason).toMatch(/browser has no SharedArrayBuffer/);
});

test("as many threads as cores, one at least and sixteen at most, or as many as were asked for", async () => {
  expect([await threadCount(0), await threadCount(40)]).toEqual([0, 40]);
  for (const [cores, threads] of [
    [0, 1],
    [1, 1],
    [6, 6],
    [64, 16],
  ] as const) {
    vi.stubGlobal("navigator", { hardwareConcurrency: cores });
    expect(await threadCount("auto"), `${cores} cores`).toBe(threads);
  }
  vi.stubGlobal("navigator", undefined);
  const { availableParallelism } = await import("node:os");
  expect(await threadCount("auto")).toBe(Math.min(availableParallelism(), 16));
});

test("where no worker can be started there are no threads, and that is said", async () => {
  noNode();
  const [automatic, heard] = [await createEngine({ backend: "wasm" }), vi.fn()];
  expect(automatic.backends.wasm.threads).toBe(0);
  expect(automatic.backends.wasm.reason).toMatch(/; this scope has no Worker \(as a service worker/);
  await automatic.dispose();
  const engine = await createEngine({ backend: "wasm", threads: 2, onFallback: heard });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 4 }));
  await lru.forward(new Float32Array(4 * 3000));
  const reason = expect.stringMatching(
    /could not be started: this scope has no Worker \(.*\)\. Pass `threads: 0`\. Work goes on/,
  );
  expect(heard.mock.calls).toEqual([[{ from: "wasm", to: "wasm", reason }]]);
  await engine.dispose();
});

test("where there is no GPU, why, and what would help", async () => {
  vi.stubGlobal("navigator", { hardwareConcurrency: 1 });
  expect(await findGpu("linrec-no-such-package")).toEqual({
    reason: expect.stringMatching(/^Node has no WebGPU of its own.*npm install linrec-no-such-package/),
  });
  expect(await findGpu("node:path")).toEqual({ reason: expect.stringMatching(/could not be loaded/) });
  noNode();
  expect(await findGpu()).toEqual({ reason: expect.stringMatching(/^this browser has no WebGPU.*https/) });
  const load = vi.spyOn(parts, "webgpu");
  const engine = await createEngine({ threads: 0 });
  expect(load, "what would drive a GPU").not.toHaveBeenCalled();
  vi.unstubAllGlobals();
  const { available, reason } = engine.backends.webgpu;
  expect({ available, reason }).toEqual({
    available: false,
    reason: expect.stringMatching(/^this browser has/),
  });
  await engine.dispose();
  const gpu = {};
  vi.stubGlobal("navigator", { gpu });
  expect(await findGpu()).toEqual({ gpu });
});
