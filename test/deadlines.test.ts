/** How long a worker may take: for what a call does, however long the forward it is of. No time passes in earnest here. */
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import { openWasm, type WasmBackend } from "../src/cpu/backend.js";
import { PooledWorker } from "../src/cpu/pool.js";
import { DEADLINE_MS } from "../src/cpu/protocol.js";
import { lruProgram } from "../src/lruParams.js";
import { State, stateLayout } from "../src/state.js";
import { Device } from "../src/webgpu/device.js";
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
  "a call may take %i ms, or what a timer can hold, and a second of grace",
  async (deadline) => {
    vi.useFakeTimers();
    const settled = vi.fn();
    const call = silent().call(() => new Promise(() => {}), deadline);
    call.catch(settled);
    const most = Math.min(deadline, 2 ** 31 - 1) + 1000;
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

/** Of a thread that is held up until a timer is due: what it waits for is there, and so is the timer, in whichever order. */
async function heldUp(deadline: number, wait: (answer: Promise<string>) => Promise<string>): Promise<string> {
  const { port1, port2 } = new MessageChannel();
  const answer = new Promise<string>((resolve) => {
    port1.onmessage = ({ data }) => resolve(data);
  });
  const result = wait(answer);
  // As in a handler of some other message: timers are looked at before the next one.
  await new Promise((resolve) => {
    const other = new MessageChannel();
    other.port1.onmessage = resolve;
    other.port2.postMessage("");
  });
  port2.postMessage("an answer");
  for (const end = performance.now() + 2 * deadline; performance.now() < end; );
  return result.finally(() => port1.close());
}

test("a thread that was held up hears a worker's answer before it gives the worker up", async () => {
  const wait = (answer: Promise<string>) => silent().call(() => answer, 20);
  expect(await heldUp(20, wait)).toBe("an answer");
});

test("a thread that was held up hears the GPU's answer before it gives the GPU up", async () => {
  const handle = { lost: new Promise(() => {}), limits: {}, destroy: vi.fn() };
  const device = new Device({} as GPU, {} as GPUAdapter, handle as never);
  expect(await heldUp(20, (answer) => device.wait(answer, 20))).toBe("an answer");
  expect(handle.destroy).not.toHaveBeenCalled();
  await expect(device.wait(new Promise(() => {}), 20)).rejects.toMatchObject({ code: "timeout" });
});
