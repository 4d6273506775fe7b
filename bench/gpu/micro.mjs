/** What this GPU gives at most, measured: bytes a second of a copy, and flops a second of multiply-adds. WGSL beside this file. */
import { readFileSync } from "node:fs";
import { timedGpu, usage } from "./timed.mjs";

const UNIFORM = 64;
const WORKGROUP = 256;
/** Flops of a round of fma.wgsl, of one thread: 16 multiply-adds of four. */
const ROUND_FLOPS = 16 * 4 * 2;
const TURNS = 5;

/**
 * @returns {Promise<{ copyBytesPerMs: number, copyBytes: number, flopsPerMs: number, method: string }>} the best of some turns;
 *   bytes are those read and those written
 */
export async function measurePeaks(gpu, { software, timestamps }) {
  const { gpu: timed, timer } = timedGpu(gpu, { timestamps });
  const device = await (await timed.requestAdapter()).requestDevice();
  try {
    const copyBytes = (software ? 16 : 128) * 2 ** 20; // each way: more than any cache holds
    const copyBytesPerMs = await measureCopy(device, timer, copyBytes);
    const flopsPerMs = await measureFma(device, timer, software);
    return { copyBytesPerMs, copyBytes, flopsPerMs, method: timer.method };
  } finally {
    device.destroy();
  }
}

async function measureCopy(device, timer, size) {
  const [to, from] = [0, 1].map(() => device.createBuffer({ size, usage: usage.STORAGE }));
  const groups = Math.min(65535, size / 16 / WORKGROUP);
  const run = await kernel(device, "copy", [to, from], groups);
  const ms = await bestOf(device, timer, run);
  for (const buffer of [to, from]) buffer.destroy();
  return (2 * size) / ms;
}

async function measureFma(device, timer, software) {
  const groups = software ? 64 : 4096;
  const sums = device.createBuffer({ size: 4 * groups * WORKGROUP, usage: usage.STORAGE });
  const sizes = device.createBuffer({ size: 16, usage: UNIFORM | usage.COPY_DST });
  const run = await kernel(device, "fma", [sums, sizes], groups);
  const time = (rounds) => {
    const words = new DataView(new ArrayBuffer(16));
    words.setUint32(0, rounds, true);
    words.setFloat32(4, 0.999, true); // towards a number: neither infinite nor so small that it is slow
    words.setFloat32(8, 0.001, true);
    device.queue.writeBuffer(sizes, 0, words.buffer);
    return bestOf(device, timer, run);
  };
  let rounds = 64;
  let ms = await time(rounds);
  while (ms < 10 && rounds < 2 ** 20) {
    rounds *= 4;
    ms = await time(rounds);
  }
  for (const buffer of [sums, sizes]) buffer.destroy();
  return (rounds * ROUND_FLOPS * groups * WORKGROUP) / ms;
}

/** Encodes one dispatch of a kernel of this folder. */
async function kernel(device, file, buffers, groups) {
  const code = readFileSync(new URL(`${file}.wgsl`, import.meta.url), "utf8");
  const compute = { module: device.createShaderModule({ code }) };
  const pipeline = await device.createComputePipelineAsync({ label: file, layout: "auto", compute });
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  const bindings = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  return (encoder) => {
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindings);
    pass.dispatchWorkgroups(groups);
    pass.end();
  };
}

async function bestOf(device, timer, run) {
  let best = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < TURNS; turn++) {
    const [{ start, end }] = await timer.during(async () => {
      const encoder = device.createCommandEncoder();
      run(encoder);
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
    });
    best = Math.min(best, end - start);
  }
  return best;
}
