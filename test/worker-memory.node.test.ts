/** A worker with a memory of its own, run in this thread to look at that memory: it gives back what a program has taken. */
import * as Comlink from "comlink";
import { afterEach, expect, test, vi } from "vitest";
import { compileKernels } from "../src/cpu/kernels.js";
import { packProgram } from "../src/cpu/packed.js";
import type { WorkerApi } from "../src/cpu/protocol.js";
import { lruProgram } from "../src/models/lru.js";
import { hardParams } from "./support/problems.js";

const { Memory } = WebAssembly;
afterEach(() => {
  WebAssembly.Memory = Memory;
  vi.unstubAllGlobals();
});

test("programs that come and go take no more memory than one", async () => {
  const memories: WebAssembly.Memory[] = [];
  WebAssembly.Memory = class extends Memory {
    constructor(descriptor: WebAssembly.MemoryDescriptor) {
      super(descriptor);
      memories.push(this);
    }
  };
  type Listener = (event: { data: unknown; origin: string }) => void;
  let hear: Listener = () => {};
  vi.stubGlobal("addEventListener", (_: string, listener: Listener) => {
    hear = listener;
  });
  const answers = new EventTarget();
  vi.stubGlobal("postMessage", (data: unknown) =>
    answers.dispatchEvent(Object.assign(new Event("message"), { data })),
  );
  await import("../workers/worker.js");
  const api = Comlink.wrap<WorkerApi>({
    addEventListener: answers.addEventListener.bind(answers),
    removeEventListener: answers.removeEventListener.bind(answers),
    postMessage: (data: unknown) => hear({ data, origin: "" }),
  });
  const { module } = await compileKernels("baseline", false, undefined);
  await api.init({ module, memory: null, desk: undefined });
  const [memory] = memories as [WebAssembly.Memory];
  const packed = packProgram(lruProgram(hardParams(64, 96, 1)));
  const program = { packed, image: null, tileTokens: packed.tileTokens, wide: undefined };
  const bytes: number[] = [];
  for (let id = 0; id < 20; id++) {
    await api.load({ ...program, id });
    bytes.push(memory.buffer.byteLength);
    await api.unload(id);
  }
  expect(bytes[0]).toBeGreaterThan(packed.image.length);
  expect(new Set(bytes).size).toBe(1);
  for (let id = 0; id < 5; id++) await api.load({ ...program, id });
  expect(memory.buffer.byteLength).toBeGreaterThan(4 * packed.image.length);
  expect(memories).toHaveLength(1);
});
