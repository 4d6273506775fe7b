/** The GPU that is there, with its device open to counting and changing. */
import { afterAll, beforeAll, test } from "vitest";
import { createEngine, type Engine } from "../../src/index.js";
import { changedGpu, poison } from "./gpus.js";

/** GPUBufferUsage by value: Node has no such global. */
const [MAP_READ, COPY_SRC, COPY_DST, UNIFORM] = [1, 4, 8, 64];

export interface Traffic {
  submits: number;
  maps: number;
  /** Bytes written to buffers by the CPU, but for uniforms. */
  up: number;
  /** Bytes mapped to be read. */
  down: number;
}

export interface Watched {
  readonly engine: Engine;
  readonly device: GPUDevice;
  readonly traffic: Traffic;
  /** What its `onFallback` was told. */
  readonly told: readonly string[];
}

/** The engine, and what crosses between it and its GPU; or why there is no GPU. @param poisoned see {@link poison} */
export async function watchedEngine(poisoned = false): Promise<Watched | { reason: string }> {
  const traffic = { submits: 0, maps: 0, up: 0, down: 0 };
  const changed = await changedGpu((device) => {
    if (poisoned) poison(device);
    watch(device, traffic);
  });
  if ("reason" in changed) return changed;
  const told: string[] = [];
  const onFallback = ({ reason }: { reason: string }) => told.push(reason);
  const engine = await createEngine({ backend: "webgpu", gpu: changed.gpu, onFallback });
  return { engine, device: engine.gpuDevice as GPUDevice, traffic, told };
}

/**
 * A {@link watchedEngine} for the tests of a file or of a `describe`. `gpuTest` makes a test that shows as skipped, with the
 * reason, where there is no GPU; `watched` is undefined there.
 */
export function useWatchedEngine(): {
  readonly watched: Watched | undefined;
  gpuTest(name: string, body: (watched: Watched) => Promise<void>): void;
} {
  let opened: Watched | { reason: string } = { reason: "not opened yet" };
  const watched = () => ("reason" in opened ? undefined : opened);
  beforeAll(async () => {
    opened = await watchedEngine();
  });
  afterAll(() => watched()?.engine.dispose());
  return {
    get watched() {
      return watched();
    },
    gpuTest(name, body) {
      test(name, async (context) => {
        if ("reason" in opened) return context.skip(opened.reason);
        await body(opened);
      });
    },
  };
}

function watch(device: GPUDevice, traffic: Traffic): void {
  const { queue } = device;
  const { submit, writeBuffer } = queue;
  const { createBuffer } = device;
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
      traffic.maps++;
      traffic.down += size ?? buffer.size;
      return mapAsync.call(buffer, mode, offset, size);
    };
    return buffer;
  };
}

/** A buffer that may be x or `out`. */
export function upload(device: GPUDevice, values: Float32Array, usage = COPY_SRC | COPY_DST): GPUBuffer {
  const buffer = device.createBuffer({ size: values.byteLength, usage });
  device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
  return buffer;
}

export async function download(device: GPUDevice, buffer: GPUBuffer): Promise<Float32Array> {
  const { size } = buffer;
  const readback = device.createBuffer({ size, usage: COPY_DST | MAP_READ });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, readback, 0, size);
  device.queue.submit([encoder.finish()]);
  await readback.mapAsync(MAP_READ);
  return new Float32Array(readback.getMappedRange().slice(0));
}
