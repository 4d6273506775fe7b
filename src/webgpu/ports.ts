/** x and y that are buffers of the caller's: what it means if the GPU refuses them. */
import { LinrecError } from "../errors.js";
import type { Ports } from "../gpuBuffer.js";

/**
 * What is not looked at beforehand, for WebGPU shows it to nobody, is seen when work is submitted: a buffer of another device,
 * or one that has been destroyed. Nothing has run then.
 */
export function blamePorts<V>(ports: Ports | undefined, work: Promise<V>): Promise<V> {
  if (!ports) return work;
  return work.catch((error: Error) => {
    if (!/validation/.test(error.message)) throw error;
    const message = "x or out cannot be used: a GPUBuffer must be of engine.gpuDevice, and not destroyed.";
    throw new LinrecError("invalid-argument", message, { cause: error });
  });
}
