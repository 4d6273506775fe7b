/** x and y that are buffers of the caller's: bound as they are or copied, from area to buffer, and what it means if the GPU refuses them. */
import type { ForwardJob } from "../backend.js";
import { LinrecError } from "../errors.js";
import type { GpuBuffer, Ports } from "../runtime/gpuBuffer.js";
import type { Device } from "./device.js";
import type { Part, Piece } from "./pieces.js";
import { outputsOf, type Passage } from "./transfer.js";
import { STORAGE, type Workspace } from "./workspace.js";

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

/** Some floats of one buffer, and where they go in another. */
interface Copy {
  from: number;
  to: number;
  floats: number;
}

/**
 * The buffers x and y where they stand in for their areas: those of usage STORAGE, of a piece whose tokens are side by side in them
 * and begin where WebGPU lets a binding begin. The others are copied.
 */
export function boundPorts(
  { handle, maxBinding }: Device,
  { job, layout, timeline }: Passage,
  { parts, segment }: Piece,
): ReadonlyMap<number, GPUBufferBinding> {
  const bound = new Map<number, GPUBufferBinding>();
  const [first, last] = [parts[0], parts.at(-1)] as [Part, Part];
  const start = first.row * job.seqLen + first.start;
  const areSideBySide = last.row * job.seqLen + last.end - start === segment.tokens;
  if (!areSideBySide || timeline.every > 1 || layout.pool) return bound;
  const bind = (port: GpuBuffer | undefined, area: number, width: number) => {
    const offset = 4 * width * start;
    const size = 4 * width * segment.tokens;
    const isAligned = offset % handle.limits.minStorageBufferOffsetAlignment === 0;
    if (port && port.usage & STORAGE && layout.own.includes(area) && isAligned && size <= maxBinding)
      bound.set(area, { buffer: port as GPUBuffer, offset, size });
  };
  bind(job.ports?.x, layout.input, layout.inputWidth);
  bind(job.ports?.y, layout.output, layout.outputWidth);
  return bound;
}

/** Copies a piece's tokens of a buffer x to their area. */
export function copyInput(
  encoder: GPUCommandEncoder,
  { job, layout }: Passage,
  workspace: Workspace,
  { parts }: Piece,
  bound: ReadonlyMap<number, unknown>,
): void {
  if (!job.ports?.x || bound.has(layout.input)) return;
  const width = layout.inputWidth;
  let to = 0;
  const copies = parts.map(({ row, start, end }) => {
    const floats = (end - start) * width;
    to += floats;
    return { from: (row * job.seqLen + start) * width, to: to - floats, floats };
  });
  copyAll(encoder, job.ports.x as GPUBuffer, workspace.area(layout.input), copies);
}

/** Copies a piece's outputs from their area to a buffer y. */
export function copyOutput(
  encoder: GPUCommandEncoder,
  passage: Passage,
  workspace: Workspace,
  piece: Piece,
  bound: ReadonlyMap<number, unknown>,
): void {
  const { job, layout } = passage;
  if (!job.ports?.y) return;
  const y = job.ports.y as GPUBuffer;
  const outputs = [...outputsOf(passage, piece)];
  if (!bound.has(layout.output)) copyAll(encoder, workspace.area(layout.output), y, outputs);
  for (const { to, floats, zeros } of outputs)
    if (zeros > 0) encoder.clearBuffer(y, 4 * (to + floats), 4 * zeros);
}

/** Those that follow each other in one. */
function copyAll(encoder: GPUCommandEncoder, source: GPUBuffer, target: GPUBuffer, copies: Copy[]): void {
  let whole: Copy = { from: 0, to: 0, floats: 0 };
  const flush = () => {
    if (whole.floats > 0)
      encoder.copyBufferToBuffer(source, 4 * whole.from, target, 4 * whole.to, 4 * whole.floats);
  };
  for (const { from, to, floats } of copies) {
    if (from === whole.from + whole.floats && to === whole.to + whole.floats) {
      whole.floats += floats;
      continue;
    }
    flush();
    whole = { from, to, floats };
  }
  flush();
}

/** Zeroes the rows of a buffer y that have no token. */
export function clearEmptyRows(device: Device, { ports, lengths, batch }: ForwardJob): Promise<void> {
  const y = ports?.y as GPUBuffer | undefined;
  const bytes = y ? y.size / batch : 0;
  if (!y || bytes === 0 || !lengths.includes(0)) return Promise.resolve();
  const { clean } = device.scoped("writing zeros", () => {
    const encoder = device.handle.createCommandEncoder();
    for (const [row, length] of lengths.entries())
      if (length === 0) encoder.clearBuffer(y, row * bytes, bytes);
    device.handle.queue.submit([encoder.finish()]);
  });
  return clean;
}
