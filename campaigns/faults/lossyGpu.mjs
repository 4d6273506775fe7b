// A GPU whose devices can be lost, refuse work and throw as often as one likes: they share one real device, on which every
// kernel is compiled but once. To who uses them they fail as the WebGPU specification says that devices do.

/** So small that a forward of little takes many pieces. */
export const limits = { maxBufferSize: 2 ** 13, maxStorageBufferBindingSize: 2 ** 13 };

/**
 * @param {GPUDevice} real
 * @param {GPUAdapter} adapter
 * @param {object} faults `before(name)` ahead of each call, which may throw; `refuses()` for each submit: nothing of it is
 *   run, and its error scope says so
 */
export function lossyGpu(real, adapter, faults) {
  const pipelines = new Map();
  const modules = new Map();
  /** The buffers of each device that was opened. */
  const opened = [];
  let newest;

  function open() {
    const buffers = new Set();
    opened.push(buffers);
    let gone = false;
    let refused = false;
    let tell;
    const lost = new Promise((resolve) => {
      tell = resolve;
    });
    const call = (target, name) => {
      const method = target[name];
      return (...args) => {
        faults.before(name);
        return method.apply(target, args);
      };
    };
    const device = {
      createBindGroup: call(real, "createBindGroup"),
      createCommandEncoder: call(real, "createCommandEncoder"),
      limits,
      lost,
      createBuffer(descriptor) {
        faults.before("createBuffer");
        const buffer = real.createBuffer(descriptor);
        const map = buffer.mapAsync.bind(buffer);
        buffer.mapAsync = async (...args) => {
          faults.before("mapAsync");
          if (gone) throw new Error("the device is gone");
          return map(...args);
        };
        buffer.getMappedRange = call(buffer, "getMappedRange");
        const destroy = buffer.destroy.bind(buffer);
        buffer.destroy = () => {
          buffers.delete(buffer);
          destroy();
        };
        buffers.add(buffer);
        if (gone) buffer.destroy();
        return buffer;
      },
      createShaderModule(descriptor) {
        faults.before("createShaderModule");
        const { code } = descriptor;
        if (!modules.has(code)) modules.set(code, real.createShaderModule(descriptor));
        return modules.get(code);
      },
      async createComputePipelineAsync(descriptor) {
        faults.before("createComputePipelineAsync");
        const { module } = descriptor.compute;
        if (!pipelines.has(module)) pipelines.set(module, real.createComputePipelineAsync(descriptor));
        return pipelines.get(module);
      },
      pushErrorScope(filter) {
        faults.before("pushErrorScope");
        if (!gone) real.pushErrorScope(filter);
      },
      async popErrorScope() {
        faults.before("popErrorScope");
        const isRefused = refused;
        refused = false;
        const error = gone ? null : await real.popErrorScope();
        if (gone) return null;
        return isRefused ? { message: "the submit was refused" } : error;
      },
      destroy() {
        if (gone) return;
        gone = true;
        for (const buffer of buffers) buffer.destroy();
        tell({ reason: "destroyed", message: "the device is gone" });
      },
      queue: {
        writeBuffer(...args) {
          faults.before("writeBuffer");
          if (!gone) real.queue.writeBuffer(...args);
        },
        onSubmittedWorkDone: () => (gone ? Promise.resolve() : real.queue.onSubmittedWorkDone()),
        submit(commands) {
          faults.before("submit");
          if (gone) return;
          refused = faults.refuses();
          if (!refused) real.queue.submit(commands);
        },
      },
    };
    newest = device;
    return device;
  }

  const requestDevice = async () => {
    faults.before("requestDevice");
    return open();
  };
  return {
    gpu: {
      async requestAdapter() {
        faults.before("requestAdapter");
        return { limits: adapter.limits, info: adapter.info, requestDevice };
      },
    },
    /** Loses the device that was opened last. */
    lose: () => newest?.destroy(),
    /** How many buffers there are that nobody has destroyed. */
    buffers: () => opened.reduce((sum, { size }) => sum + size, 0),
  };
}

/** What has been opened stays: the package frees it with what it came from, whoever still uses the device. */
const held = [];

/** A GPU without faults, over a real device: for its count of buffers. */
export async function countingGpu() {
  const { create } = await import("webgpu");
  const real = create([]);
  const adapter = await real.requestAdapter();
  if (!adapter) throw new Error("there is no WebGPU in this process: install the package webgpu");
  const device = await adapter.requestDevice();
  held.push(real, adapter, device);
  return lossyGpu(device, adapter, { before() {}, refuses: () => false });
}
