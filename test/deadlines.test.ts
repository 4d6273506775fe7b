/** How long a worker may take: for what a call does, however long the forward it is of. No time passes in earnest here. */
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import { openWasm, type WasmBackend } from "../src/cpu/backend.js";
import { PooledWorker } from "../src/cpu/pool.js";
import { DEADLINE_MS } from "../src/cpu/protocol.js";
import { lruProgram } from "../src/models/lru.js";
import { State, stateLayout } from "../src/state.js";
import { floats, hardParams } from "./support/problems.js";

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** It never answers. */
function silent(): PooledWorker {
  const { port1: endpoint } = new MessageChannel();
  const rest = { onFailure() {}, terminate() {}, ref() {}, unref() {} };
  return new PooledWorker({ endpoint: endpoint as never, ...rest }, false);
}

test.each([1000, 2 ** 31 - 1, 2 ** 31, 1e12])(
  "a call may take %i ms, or what a timer can hold",
  async (deadline) => {
    vi.useFakeTimers();
    const settled = vi.fn();
    const call = silent().call(() => new Promise(() => {}), deadline);
    call.catch(settled);
    const most = Math.min(deadline, 2 ** 31 - 1);
    await vi.advanceTimersByTimeAsync(most - 1);
    expect(settled).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(1);
    expect(settled).toHaveBeenCalledOnce();
    await expect(call).rejects.toMatchObject({ code: "timeout" });
  },
);

describe.each([true, false])("shared memory: %s", (sharedMemory) => {
  let backend: WasmBackend;
  beforeAll(async () => {
    const options = { workerUrl: undefined, wasm: undefined, onTrouble() {} };
    backend = await openWasm({ simd: "baseline", threads: 2, sharedMemory, ...options });
  });
  afterAll(() => backend.dispose());

  test("a forward of several windows: each call has the time of its own tokens", async () => {
    const [dModel, batch] = [8, 4];
    const program = lruProgram(hardParams(dModel, 2, 1));
    const runner = backend.prepare(program);
    const call = vi.spyOn(PooledWorker.prototype, "call");
    const longest = async (seqLen: number) => {
      call.mockClear();
      const x = floats(batch * seqLen * dModel, 1);
      const lengths = new Int32Array(batch).fill(seqLen);
      const state = new State(stateLayout(program), batch);
      const job: ForwardJob = {
        ...{ batch, seqLen, lengths, x, y: new Float32Array(x.length), state, threads: 2 },
        ...{ signal: undefined, onProgress: undefined },
      };
      await runner.forward(job);
      return Math.max(...call.mock.calls.map(([, deadline]) => deadline));
    };
    await longest(1); // starting workers may take longer
    const one = await longest(40_000);
    expect(one).toBeGreaterThan(DEADLINE_MS);
    expect(await longest(100_000)).toBe(one);
    runner.dispose();
  });
});
