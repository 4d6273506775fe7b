/** Buffers of the GPU as x and y: what is looked at of a `GPUBuffer`, so that nobody needs WebGPU's types. */
import { LinrecError } from "../errors.js";

/** A `GPUBuffer` of the engine's own device, `engine.gpuDevice`. */
export interface GpuBuffer {
  /** Bytes. */
  readonly size: number;
  /** Flags of `GPUBufferUsage`: COPY_SRC for x, COPY_DST for `out`, and STORAGE to be read and written in place. */
  readonly usage: number;
  /** "unmapped" while linrec has it. */
  readonly mapState: "unmapped" | "pending" | "mapped";
  /** Its creator's name for it; of no meaning to linrec. */
  readonly label: string;
}

/** x and y that are on the GPU, where they are. */
export interface Ports {
  readonly x: GpuBuffer | undefined;
  readonly y: GpuBuffer | undefined;
}

/** GPUBufferUsage by value: Node has no such global. */
const COPY_SRC = 4;
const COPY_DST = 8;

export function isGpuBuffer(value: unknown): value is GpuBuffer {
  const { size, usage, mapState } = Object(value) as Partial<GpuBuffer>;
  return typeof size === "number" && typeof usage === "number" && mapState !== undefined;
}

/** How many float32 or int32 values there is room for. */
export function countOf(values: ArrayLike<number> | GpuBuffer): number {
  return isGpuBuffer(values) ? values.size / 4 : values.length;
}

/** What of x and out is on the GPU; undefined if neither is. Sizes are checked with those of arrays. */
export function portsOf(x: unknown, out: unknown): Ports | undefined {
  const ports = { x: isGpuBuffer(x) ? x : undefined, y: isGpuBuffer(out) ? out : undefined };
  if (!ports.x && !ports.y) return undefined;
  if (ports.x) checkUsable("x", ports.x, COPY_SRC, "COPY_SRC");
  if (ports.y) checkUsable("out", ports.y, COPY_DST, "COPY_DST");
  if (x === out) throw new LinrecError("invalid-argument", "x and out are one GPUBuffer. Use two.");
  return ports;
}

function checkUsable(name: string, { usage, mapState }: GpuBuffer, flag: number, needs: string): void {
  if (!(usage & flag))
    throw new LinrecError(
      "invalid-argument",
      `${name} is a GPUBuffer of usage ${usage}, without GPUBufferUsage.${needs}. Create it with that.`,
    );
  if (mapState !== "unmapped")
    throw new LinrecError("invalid-argument", `${name} is a GPUBuffer that is ${mapState}. Unmap it first.`);
}

/** Nothing but the GPU reads and writes its buffers. */
export function checkPortBackend(option: unknown): void {
  if (option === undefined || option === "auto" || [option].flat().includes("webgpu")) return;
  throw new LinrecError(
    "invalid-argument",
    `backend is ${JSON.stringify(option)}; x or out is a GPUBuffer, which only "webgpu" can use. Leave it out.`,
  );
}
