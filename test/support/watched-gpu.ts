/** The GPU that is there, with its device open to counting and changing. */
import { createEngine, type Engine, type EngineOptions } from "../../src/index.js";
import { openDevice } from "../../src/webgpu/device.js";

export interface Traffic {
  submits: number;
  /** Bytes written to buffers by the CPU, but for uniforms. */
  up: number;
  /** Bytes mapped to be read. */
  down: number;
}

export interface Watched {
  readonly engine: Engine;
  readonly device: GPUDevice;
  readonly traffic: Traffic;
}

/** The engine, and what crosses between it and its GPU; or why there is no GPU. */
export async function watchedEngine(
  options: EngineOptions = { backend: "webgpu" },
): Promise<Watched | { reason: string }> {
  const real = await openDevice();
  if ("reason" in real) return real;
  const { gpu } = real.device;
  real.device.dispose();
  const traffic = { submits: 0, up: 0, down: 0 };
  const stub = {
    async requestAdapter() {
      const adapter = (await gpu.requestAdapter()) as GPUAdapter;
      const { limits, info } = adapter;
      const requestDevice = async () => watch(await adapter.requestDevice(), traffic);
      return { limits, info, requestDevice };
    },
  };
  const engine = await createEngine({ ...options, gpu: stub });
  return { engine, device: engine.gpuDevice as GPUDevice, traffic };
}

function watch(device: GPUDevice, traffic: Traffic): GPUDevice {
  const { queue } = device;
  const { submit, writeBuffer } = queue;
  const { createBuffer } = device;
  const UNIFORM = 64;
  queue.submit = (commands) => {
    traffic.submits++;
    return submit.call(queue, commands);
  };
  queue.writeBuffer = ((buffer: GPUBuffer, offset: number, data: Float32Array<ArrayBuffer>) => {
    if (!(buffer.usage & UNIFORM)) traffic.up += data.byteLength;
    return writeBuffer.call(queue, buffer, offset, data);
  }) as typeof writeBuffer;
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer.call(device, descriptor);
    const { mapAsync } = buffer;
    buffer.mapAsync = (mode, offset, size) => {
      traffic.down += size ?? buffer.size;
      return mapAsync.call(buffer, mode, offset, size);
    };
    return buffer;
  };
  return device;
}
