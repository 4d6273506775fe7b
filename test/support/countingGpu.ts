/** Runs a plan's own shaders with every access of a storage array counted: what `trafficOf` says must come of it. */
import { type Dispatch, scheduled, segmentsOf } from "../../src/webgpu/dispatches.js";
import {
  entryPointOf,
  type KernelName,
  type Segment,
  segmentWords,
  shaderOf,
  spread,
  tileOf,
} from "../../src/webgpu/pipelines.js";
import { areaBytes, type Plan } from "../../src/webgpu/plan.js";
import type { Tile, Tiles } from "../../src/webgpu/tiles.js";

/** One array of one dispatch, in bytes. */
export interface Counted {
  readonly loads: number;
  /** Distinct ones. */
  readonly read: number;
  readonly stores: number;
  /** Distinct ones. */
  readonly written: number;
}

/** Elements that an array may have to be counted. */
const MOST = 2 ** 17;
/** Words of the counters of one array: accesses, and a bit for each element. */
const STRIDE = MOST / 32 + 1;
const MOST_ARRAYS = 8;

/** Storage arrays that a device must bind to count: a kernel's, and the counters. */
export const BINDINGS = MOST_ARRAYS + 1;

const [STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ] = [128, 64, 4, 8, 1];

/** The shader with `name[i]` as `name[touch(n, i)]`, n the array's number, or 8 more where it is written. */
function counting(
  kernel: KernelName,
  tile: Tile,
  epilogue: readonly string[] = [],
): { code: string; bytes: number[] } {
  const source = shaderOf(kernel, tile, epilogue);
  const arrays = new Map<string, number>();
  const bytes: number[] = [];
  const declarations = source.matchAll(/@binding\((\d+)\) var<storage[^>]*> (\w+): array<(?:vec(\d))?/g);
  for (const [, binding, name, lanes = 1] of declarations) {
    arrays.set(name as string, Number(binding) - 2);
    bytes[Number(binding) - 2] = 4 * Number(lanes);
  }
  const rewrite = (text: string): string => {
    const found = /\b(\w+)\[/.exec(text);
    if (!found) return text;
    const [opening, name] = found as unknown as [string, string];
    const from = found.index + opening.length;
    let [to, depth] = [from, 1];
    for (; depth > 0; to++) depth += text[to] === "[" ? 1 : text[to] === "]" ? -1 : 0;
    const index = rewrite(text.slice(from, to - 1));
    const rest = text.slice(to);
    const array = arrays.get(name);
    const number = (array as number) + (/^(\.\w+)?\s*=[^=]/.test(rest) ? MOST_ARRAYS : 0);
    const counted = array === undefined ? index : `touch(${number}u, ${index})`;
    return `${text.slice(0, from)}${counted}]${rewrite(rest)}`;
  };
  const counters = `
@group(1) @binding(0) var<storage, read_write> counters: array<atomic<u32>>;
fn touch(n: u32, i: u32) -> u32 {
  atomicAdd(&counters[n * ${STRIDE}u], 1u);
  atomicOr(&counters[n * ${STRIDE}u + 1u + i / 32u], 1u << (i % 32u));
  return i;
}`;
  return { code: rewrite(source.replace(/\/\/.*/g, "")) + counters, bytes };
}

/** Compiles a counting kernel once. */
export function countingKernels(device: GPUDevice, tiles: Tiles) {
  const known = new Map<string, { pipeline: GPUComputePipeline; bytes: number[] }>();
  return (kernel: KernelName, epilogue: readonly string[] = []) => {
    const key = [kernel, ...epilogue].join();
    let made = known.get(key);
    if (!made) {
      const { code, bytes } = counting(kernel, tileOf(tiles, kernel), epilogue);
      const compute = { module: device.createShaderModule({ code }), entryPoint: entryPointOf(kernel) };
      made = { pipeline: device.createComputePipeline({ layout: "auto", compute }), bytes };
      known.set(key, made);
    }
    return { ...made, tile: tileOf(tiles, kernel) };
  };
}

/** Runs the dispatches of one segment over areas that hold `given`, else 1, and counts. */
export async function countAccesses(
  device: GPUDevice,
  compiled: ReturnType<typeof countingKernels>,
  plan: Pick<Plan, "areas" | "dispatches">,
  segment: Segment,
  given: ReadonlyMap<number, Uint32Array>,
): Promise<{ dispatch: Dispatch; arrays: Counted[] }[]> {
  const isThinned = segment.thinned > 0;
  const buffer = (bytes: number, usage: number, words?: Uint32Array | Float32Array) => {
    const made = device.createBuffer({ size: Math.max(16, bytes), usage: usage | COPY_SRC | COPY_DST });
    if (words) device.queue.writeBuffer(made, 0, words as Uint32Array<ArrayBuffer>);
    return made;
  };
  const areas = plan.areas.map((area, i) => {
    const words = Math.ceil(areaBytes(area, segment) / 4);
    if (words > MOST) throw new Error(`area ${i} has ${words} words: more than are counted`);
    return buffer(4 * words, STORAGE, given.get(i) ?? new Float32Array(words).fill(1));
  });
  const counters = buffer(8 * STRIDE * MOST_ARRAYS, STORAGE);
  const staging = device.createBuffer({ size: counters.size, usage: COPY_DST | MAP_READ });
  const result = [];
  for (const { dispatch, on } of scheduled(plan.dispatches, segment, true, isThinned)) {
    const { kernel, sizes, arrays, over = "tokens", into } = dispatch;
    const { pipeline, bytes, tile } = compiled(kernel, dispatch.epilogue);
    const words = segmentWords(segmentsOf(segment, isThinned)[over], isThinned && over === "outputs");
    const buffers = [
      buffer(16, UNIFORM, words),
      buffer(16, UNIFORM, Uint32Array.from(sizes)),
      ...arrays.map((array) =>
        typeof array === "number" ? (areas[array] as GPUBuffer) : buffer(array.byteLength, STORAGE, array),
      ),
    ];
    const group = (index: number, bound: GPUBuffer[]) =>
      device.createBindGroup({
        layout: pipeline.getBindGroupLayout(index),
        entries: bound.map((buffer, binding) => ({ binding, resource: { buffer } })),
      });
    const encoder = device.createCommandEncoder();
    encoder.clearBuffer(counters);
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group(0, buffers));
    pass.setBindGroup(1, group(1, [counters]));
    pass.dispatchWorkgroups(...spread(dispatch.workgroups(on, tile)));
    pass.end();
    encoder.copyBufferToBuffer(counters, 0, staging, 0, counters.size);
    if (into)
      encoder.copyBufferToBuffer(
        areas[arrays[0] as number] as GPUBuffer,
        0,
        areas[into.area] as GPUBuffer,
        0,
        into.bytes * on.tokens,
      );
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(MAP_READ);
    const counts = new Uint32Array(staging.getMappedRange()).slice();
    staging.unmap();
    const distinct = (n: number) => counts.subarray(n * STRIDE + 1, (n + 1) * STRIDE).reduce(addBits, 0);
    const countedOf = (_: unknown, n: number): Counted => {
      const size = bytes[n] as number;
      return {
        loads: size * (counts[n * STRIDE] as number),
        read: size * distinct(n),
        stores: size * (counts[(n + MOST_ARRAYS) * STRIDE] as number),
        written: size * distinct(n + MOST_ARRAYS),
      };
    };
    result.push({ dispatch, arrays: arrays.map(countedOf) });
  }
  return result;
}

function addBits(sum: number, word: number): number {
  let bits = sum;
  for (let rest = word; rest !== 0; rest &= rest - 1) bits++;
  return bits;
}
