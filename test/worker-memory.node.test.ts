/** A worker with a memory of its own, run in this thread to look at that memory. */
import * as Comlink from "comlink";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { compileKernels } from "../src/cpu/kernels.js";
import { packProgram } from "../src/cpu/packed.js";
import { LANES, type Span, type WorkerApi } from "../src/cpu/protocol.js";
import { withSpans } from "../src/cpu/spans.js";
import { lruProgram } from "../src/lruParams.js";
import { floats, hardParams } from "./support/problems.js";

const { Memory } = WebAssembly;
let api: Comlink.Remote<WorkerApi>;
const memories: WebAssembly.Memory[] = [];
let memory: WebAssembly.Memory;

beforeAll(async () => {
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
  api = Comlink.wrap<WorkerApi>({
    addEventListener: answers.addEventListener.bind(answers),
    removeEventListener: answers.removeEventListener.bind(answers),
    postMessage: (data: unknown) => hear({ data, origin: "" }),
  });
});
beforeEach(async () => {
  const { module } = await compileKernels("baseline", false, undefined);
  memories.length = 0;
  await api.init({ module, memory: null, desk: undefined });
  expect(memories).toHaveLength(1);
  [memory] = memories as [WebAssembly.Memory];
});
afterAll(() => {
  WebAssembly.Memory = Memory;
  vi.unstubAllGlobals();
});

test.each([
  [16, 16],
  [64, 4],
  [4, 64],
  [64, 64],
  [210, 420],
  [512, 512],
])(
  "spans under way, and their messages, take 4 MiB beside the weights: dModel %i, dState %i",
  async (dModel, dState) => {
    const packed = withSpans(packProgram(lruProgram(hardParams(dModel, dState, 1))));
    const { tileTokens: tokens, image } = packed;
    await api.load({ packed, image: null, tileTokens: tokens, wide: undefined, id: 1 });
    const x = floats(tokens * dModel, 1) as Float32Array<ArrayBuffer>;
    const span: Omit<Span, "lane"> = {
      ...{ program: 1, x, times: undefined, tokens, reversed: false, k0: 0, last: false, count: tokens },
      ...{ resets: new Int32Array(), given: new Int32Array(), phase: 0, every: 1 },
      ...{ outputs: tokens, state: undefined },
    };
    const most = 4 * 2 ** 20 + image.length;
    for (const reversed of [false, true]) {
      for (let lane = 0; lane < LANES; lane++)
        expect((await api.begin({ ...span, lane, reversed })).stage).toBe(0);
      expect(memory.buffer.byteLength + LANES * x.byteLength).toBeLessThanOrEqual(most);
      for (let lane = 0; lane < LANES; lane++) await api.resume(lane, null, x.buffer);
    }
    await api.unload(1);
  },
);

test("programs that come and go take no more memory than one", async () => {
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
});
