/** The GPU of this machine with changes: devices that are small, get lost, or are watched. */
import { lossyGpu } from "../../campaigns/faults/lossyGpu.mjs";
import { openDevice } from "../../src/webgpu/device.js";

/** What is done to each device before it is used; `nth` counts from 0. */
export type Change = (handle: GPUDevice, nth: number) => void;

/** A `GPU` for `createEngine({ gpu })`, or the reason why there is none. Its devices have the default limits. */
export async function changedGpu(change: Change): Promise<{ gpu: object } | { reason: string }> {
  const real = await openDevice();
  if ("reason" in real) return real;
  const { gpu } = real.device;
  real.device.dispose();
  return { gpu: changing(gpu, change) };
}

/**
 * The same in less time: devices that share a real one, on which each kernel is compiled but once (a software adapter takes
 * seconds). What is lost of them is a stand-in.
 */
export async function standInGpu(change: Change): Promise<{ gpu: object } | { reason: string }> {
  shared ??= openDevice().then(async (real) => {
    if ("reason" in real) return real;
    const { gpu, handle } = real.device;
    const adapter = (await gpu.requestAdapter()) as GPUAdapter;
    const faults = { before: () => {}, refuses: () => false };
    return { held: real, gpu: lossyGpu(handle, adapter, faults).gpu as unknown as GPU };
  });
  const found = await shared;
  return "reason" in found ? found : { gpu: changing(found.gpu, change) };
}

let shared: Promise<{ held: object; gpu: GPU } | { reason: string }> | undefined;

function changing(gpu: GPU, change: Change): object {
  let nth = 0;
  return {
    async requestAdapter() {
      const adapter = (await gpu.requestAdapter()) as GPUAdapter;
      return {
        limits: adapter.limits,
        info: adapter.info,
        async requestDevice() {
          const handle = await adapter.requestDevice();
          change(handle, nth++);
          return handle;
        },
      };
    },
  };
}

/** Lets no binding be larger, so that a forward of little runs in many pieces. */
export function shrink(handle: GPUDevice, bytes: number): void {
  Object.defineProperty(handle, "limits", {
    value: { maxBufferSize: bytes, maxStorageBufferBindingSize: bytes },
  });
}

/** Calls `before` ahead of each submit, with the number of those before it. */
export function onSubmit({ queue }: GPUDevice, before: (nth: number) => void): void {
  const submit = queue.submit.bind(queue);
  let nth = 0;
  queue.submit = (commands) => {
    before(nth++);
    return submit(commands);
  };
}

/** Has an error come out of each scope, counted from 0, of which `fails` says so: of every three the second is that of memory. */
export function failScopes(handle: GPUDevice, fails: (nth: number) => boolean, message = "injected"): void {
  const pop = handle.popErrorScope.bind(handle);
  let nth = 0;
  handle.popErrorScope = async () => {
    const injected = fails(nth++);
    const error = await pop();
    return injected ? ({ message } as GPUError) : error;
  };
}

/** What a device is asked for. */
export interface Counts {
  submits: number;
  maps: number;
  dispatches: number;
}

/** Counts it from now on. */
export function count(handle: GPUDevice, counts: Counts): void {
  onSubmit(handle, () => counts.submits++);
  const [createBuffer, createEncoder] = [
    handle.createBuffer.bind(handle),
    handle.createCommandEncoder.bind(handle),
  ];
  handle.createBuffer = (descriptor) => {
    const buffer = createBuffer(descriptor);
    const map = buffer.mapAsync.bind(buffer);
    buffer.mapAsync = (...given) => {
      counts.maps++;
      return map(...given);
    };
    return buffer;
  };
  handle.createCommandEncoder = (descriptor) => {
    const encoder = createEncoder(descriptor);
    const begin = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (given) => {
      const pass = begin(given);
      const dispatch = pass.dispatchWorkgroups.bind(pass);
      pass.dispatchWorkgroups = (...groups) => {
        counts.dispatches++;
        return dispatch(...groups);
      };
      return pass;
    };
    return encoder;
  };
}

/** What of `counts` a forward takes that is not the first. */
export async function seen(counts: Counts, forward: () => Promise<unknown>): Promise<Counts> {
  await forward();
  const before = { ...counts };
  await forward();
  return {
    submits: counts.submits - before.submits,
    maps: counts.maps - before.maps,
    dispatches: counts.dispatches - before.dispatches,
  };
}

/** Fills every buffer before anybody else writes to it: zeros, which a new one holds, hide what is never written. */
export function poison(handle: GPUDevice, value = Number.NaN): void {
  const create = handle.createBuffer.bind(handle);
  handle.createBuffer = (descriptor) => {
    const buffer = create(descriptor);
    handle.queue.writeBuffer(buffer, 0, new Float32Array(descriptor.size / 4).fill(value));
    return buffer;
  };
}
