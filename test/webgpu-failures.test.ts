/** WebGPU that is not there, is slow to come, reports errors or goes away: a reason or a typed error, never a hang. */
import { describe, expect, test, vi } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import type { Program } from "../src/program.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu } from "../src/webgpu/backend.js";
import { type Device, openDevice } from "../src/webgpu/device.js";
import { type Change, changedGpu, failScopes } from "./support/gpus.js";

const program: Program = {
  architecture: "dense",
  slots: [2, 2],
  stages: [
    {
      ...{ kind: "dense", name: "swap", src: 0, dst: 1, inWidth: 2, outWidth: 2 },
      kernel: Float32Array.of(0, 1, 1, 0),
      bias: null,
    },
  ],
  output: 1,
};

function makeJob(): ForwardJob {
  return {
    ...{
      batch: 1,
      seqLen: 2,
      lengths: Int32Array.of(2),
      threads: 0,
      signal: undefined,
      onProgress: undefined,
    },
    x: Float32Array.of(1, 2, 3, 4),
    y: new Float32Array(4),
    state: new State(stateLayout(program), 1),
  };
}

/** Opens the GPU that is there, with the default limits and with `change` made to its device. */
async function openChanged(change: Change): Promise<Awaited<ReturnType<typeof openWebgpu>>> {
  const changed = await changedGpu(change);
  return "reason" in changed ? changed : openWebgpu(changed.gpu);
}

describe("a GPU that cannot be had gives a reason", () => {
  const cases: [string, unknown, RegExp][] = [
    ["no adapter", { requestAdapter: async () => null }, /no adapter/],
    [
      "an adapter that rejects",
      { requestAdapter: () => Promise.reject(new Error("blocklisted")) },
      /blocklisted/,
    ],
    [
      "a device that rejects",
      {
        requestAdapter: async () => ({ limits: {}, requestDevice: () => Promise.reject(new Error("busy")) }),
      },
      /busy/,
    ],
    ["something that is no GPU", { adapter: 1 }, /does not work/],
  ];
  for (const [name, gpu, reason] of cases) {
    test(name, async () => {
      expect(await openWebgpu(gpu)).toEqual({ reason: expect.stringMatching(reason) });
    });
  }

  const never = () => new Promise(() => undefined);
  test.each([
    ["an adapter", { requestAdapter: never }],
    ["a device", { requestAdapter: async () => ({ limits: {}, requestDevice: never }) }],
  ])("%s that never comes", async (_, gpu) => {
    vi.useFakeTimers();
    try {
      const opened = openWebgpu(gpu);
      await vi.advanceTimersByTimeAsync(6000);
      expect(await opened).toEqual({ reason: expect.stringMatching(/within 5 s/) });
    } finally {
      vi.useRealTimers();
    }
  });
});

test.each([
  [true, undefined, true],
  [undefined, true, true],
  [false, true, true],
  [false, undefined, false],
])("an adapter says that it is software: %o, its info: %o", async (adapter, info, software) => {
  const handle = { limits: {}, lost: new Promise(() => undefined) };
  const found = {
    ...{ limits: {}, isFallbackAdapter: adapter, info: { vendor: "some", isFallbackAdapter: info } },
    requestDevice: async () => handle,
  };
  const opened = await openDevice({ requestAdapter: async () => found });
  expect(opened).toMatchObject({ device: { software } });
});

describe("a GPU that fails", () => {
  test("default limits are enough", async (context) => {
    const opened = await openChanged(() => undefined);
    if ("reason" in opened) return context.skip(opened.reason);
    const runner = await opened.backend.prepare(program);
    const job = makeJob();
    await runner.forward(job);
    expect([...job.y]).toEqual([2, 1, 4, 3]);
    opened.backend.dispose();
  });

  test("lost at any moment of a forward: the forward and all later ones reject", async (context) => {
    for (const turns of [0, 1, 3, 6, 20]) {
      let handle: GPUDevice | undefined;
      const opened = await openChanged((device) => {
        handle = device;
      });
      if ("reason" in opened) return context.skip(opened.reason);
      const runner = await opened.backend.prepare(program);
      const job = makeJob();
      const results = [runner.forward(job), runner.forward(makeJob())];
      for (let i = 0; i < turns; i++) await Promise.resolve();
      handle?.destroy();
      for (const result of results) {
        const code = await result.then(
          () => "done",
          (error) => error.code,
        );
        expect(["gpu-failed", "done"]).toContain(code);
        if (code === "done") expect([...job.y]).toEqual([2, 1, 4, 3]);
      }
      await expect(runner.forward(makeJob())).rejects.toMatchObject({ code: "gpu-failed" });
      await expect(opened.backend.prepare(program)).rejects.toMatchObject({ code: "gpu-failed" });
      runner.dispose();
      opened.backend.dispose();
    }
  });

  test("what is disposed of leaves no device behind", async (context) => {
    const devices: GPUDevice[] = [];
    const opened = await openChanged((handle) => devices.push(handle));
    if ("reason" in opened) return context.skip(opened.reason);
    opened.backend.dispose();
    expect(await devices[0]?.lost).toMatchObject({ reason: "destroyed" });
  });

  test("disposed of during a forward", async (context) => {
    const opened = await openChanged(() => undefined);
    if ("reason" in opened) return context.skip(opened.reason);
    const { backend } = opened;
    const runner = await backend.prepare(program);
    const results = [
      runner.forward(makeJob()),
      runner.forward(makeJob()),
      backend.prepare(program),
      backend.measure(),
    ];
    await Promise.resolve();
    backend.dispose();
    backend.dispose();
    for (const result of results) await expect(result).rejects.toMatchObject({ code: "disposed" });
  });

  test("an error in a scope withholds the result, and the next forward starts clean", async (context) => {
    let failures = 0;
    const opened = await openChanged((handle) => failScopes(handle, () => failures-- === 1));
    if ("reason" in opened) return context.skip(opened.reason);
    const runner = await opened.backend.prepare(program);
    for (const [pops, code] of [
      [1, "gpu-failed"],
      [2, "out-of-memory"],
      [3, "gpu-failed"],
    ] as const) {
      failures = pops;
      const job = makeJob();
      await expect(runner.forward(job)).rejects.toMatchObject({
        code,
        message: expect.stringContaining("injected"),
      });
      expect([...job.y]).toEqual([0, 0, 0, 0]);
      failures = 0;
      await runner.forward(job);
      expect([...job.y]).toEqual([2, 1, 4, 3]);
    }
    opened.backend.dispose();
  });

  test("a kernel that is refused: the compiler's words, not those of the pipeline that has none", async (context) => {
    const opened = await openChanged((handle) => {
      const make = handle.createShaderModule.bind(handle);
      let made = 0;
      handle.createShaderModule = (descriptor) => {
        made = 1;
        return make(descriptor);
      };
      failScopes(handle, () => made-- === 1, "unresolved value");
      handle.createComputePipelineAsync = () => Promise.reject(new Error("no module"));
    });
    if ("reason" in opened) return context.skip(opened.reason);
    await expect(opened.backend.prepare(program)).rejects.toThrow(/compiling \w+: unresolved value/);
    opened.backend.dispose();
  });

  test("a kernel for which there was no memory is compiled when it is next wanted", async (context) => {
    let [made, left] = [0, -1];
    const opened = await openChanged((handle) => {
      const make = handle.createShaderModule.bind(handle);
      handle.createShaderModule = (descriptor) => {
        if (made++ === 0) left = 1; // its second scope is that of memory
        return make(descriptor);
      };
      failScopes(handle, () => left-- === 0);
    });
    if ("reason" in opened) return context.skip(opened.reason);
    await expect(opened.backend.prepare(program)).rejects.toMatchObject({ code: "out-of-memory" });
    const job = makeJob();
    await (await opened.backend.prepare(program)).forward(job);
    expect([...job.y]).toEqual([2, 1, 4, 3]);
    opened.backend.dispose();
  });

  test("a GPU like Deno's, which panics over an array of nothing, and throws where what is unmapped is not mapped", async (context) => {
    const opened = await openChanged((handle) => {
      const [create, write] = [handle.createBuffer.bind(handle), handle.queue.writeBuffer.bind(handle.queue)];
      handle.queue.writeBuffer = (buffer, offset, data) => {
        if (data.byteLength === 0) throw new Error("nothing is written");
        write(buffer, offset, data);
      };
      handle.createBuffer = (descriptor) => {
        const buffer = create(descriptor);
        const unmap = buffer.unmap.bind(buffer);
        buffer.unmap = () => {
          if (buffer.mapState !== "mapped") throw new Error("it is not mapped");
          unmap();
        };
        return buffer;
      };
    });
    if ("reason" in opened) return context.skip(opened.reason);
    const runner = await opened.backend.prepare(program);
    const none = { ...makeJob(), every: 3, y: new Float32Array(0) };
    await runner.forward(none);
    const job = makeJob();
    await runner.forward(job);
    expect([...job.y]).toEqual([2, 1, 4, 3]);
    opened.backend.dispose();
  });

  test("a real validation error reaches the caller as one", async (context) => {
    const device = await realDevice(context);
    const { clean } = device.scoped("asking for nonsense", () => {
      device.handle.createBuffer({ size: 16, usage: 1 | 2 }); // mapped for both directions
    });
    await expect(clean).rejects.toMatchObject({
      code: "gpu-failed",
      message: expect.stringContaining("validation"),
    });
    device.dispose();
  });

  test("what never comes is a timeout, and the end of the device", async (context) => {
    const device = await realDevice(context);
    await expect(device.wait(new Promise(() => undefined), 20)).rejects.toMatchObject({ code: "timeout" });
    expect(() => device.check()).toThrow(/within/);
  });
});

async function realDevice(context: { skip(reason: string): never }): Promise<Device> {
  const opened = await openDevice();
  return "reason" in opened ? context.skip(opened.reason) : opened.device;
}
