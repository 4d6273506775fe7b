/** Which tiles are the fastest on a GPU, by trying: once in a process for each kind of GPU, never on a software adapter. */
import { initLru } from "../init.js";
import { programOf } from "../lruParams.js";
import type { Program } from "../program.js";
import type { Device } from "./device.js";
import { type Pipelines, segmentOf, spread } from "./pipelines.js";
import { areaBytes, makePlan } from "./plan.js";
import { plainTiles, softwareTiles, T, type Tile, type TiledKernel, type Tiles, tilesFor } from "./tiles.js";

const STORAGE = 128;
const UNIFORM = 64;
const COPY_DST = 8;

/** A layer of this width, and as many chunks: enough to fill a large GPU for tens of microseconds. */
const WIDTH = 256;
const CHUNKS = 256;

/** A product is repeated until it takes this long, up to so many times: else the way to the GPU and back would hide it, */
const ENOUGH_MS = 0.5;
const MOST_REPEATS = 256;
/** or a clock's ticks: a millisecond each in some browsers. */
const ENOUGH_TICKS = 4;
/** More than a millisecond: one that has not ticked by then stands still, as a test's does. */
const MOST_READS = 1e5;

/** Where every question to the GPU takes long to be answered, the rest is not asked. */
const BUDGET_MS = 200;
const DEADLINE_MS = 30_000;

const kernels = Object.keys(plainTiles) as TiledKernel[];

const known = new Map<string, Promise<Tiles>>();

/** The fastest tiles; on a software adapter those that are compiled fastest. */
export function tunedTiles(device: Device, pipelines: Pipelines): Promise<Tiles> {
  if (device.software) return Promise.resolve(softwareTiles);
  // With other limits other tiles can be had.
  const kind = [device.description, ...kernels.map((kernel) => tilesFor(kernel, device).length)].join();
  let tiles = known.get(kind);
  if (!tiles) {
    // A GPU that fails says so to whoever runs something on it; here it may be a driver that refuses a tile.
    tiles = tune(device, pipelines).catch(() => {
      known.delete(kind);
      return plainTiles;
    });
    known.set(kind, tiles);
  }
  return tiles;
}

/** Times every tile of each kernel. A tile is given up for one that is at least 5 % faster. */
export async function tune(
  device: Device,
  pipelines: Pipelines,
  width = WIDTH,
  chunks = CHUNKS,
): Promise<Tiles> {
  const plan = makePlan(trial(width));
  const segment = { ...segmentOf(1, T * chunks), rows: 2 }; // not all of them single chunks
  const trials = plan.dispatches.flatMap(({ kernel, sizes, arrays, workgroups }) => {
    const tiles = kernel in plainTiles ? tilesFor(kernel as TiledKernel, device) : [];
    if (tiles.length < 2) return [];
    return [{ kernel: kernel as TiledKernel, sizes, arrays, workgroups, tiles }];
  });
  // Compilers take longer than all that is measured here: they start at once.
  const compiled = trials.map(({ kernel, tiles }) => tiles.map((tile) => pipelines.get(kernel, tile)));
  await Promise.all(compiled.flat());

  const buffers: GPUBuffer[] = [];
  const buffer = (size: number, usage: number, words?: Uint32Array<ArrayBuffer>): GPUBuffer => {
    const made = device.handle.createBuffer({ size: Math.max(16, size), usage: usage | COPY_DST });
    if (words) device.handle.queue.writeBuffer(made, 0, words);
    buffers.push(made);
    return made;
  };
  const best: { -readonly [kernel in TiledKernel]: Tile } = { ...plainTiles };
  try {
    const { value: areas, clean } = device.scoped("trying tiles", () => {
      const areas = plan.areas.map((area) => buffer(areaBytes(area, segment), STORAGE));
      const table = new Uint32Array(2 * segment.chunks).map((_, i) => (i % 2 ? T : (i / 2) * T));
      device.handle.queue.writeBuffer(areas[plan.tables.chunks] as GPUBuffer, 0, table);
      return areas;
    });
    await device.wait(clean, DEADLINE_MS);
    const enough = Math.max(ENOUGH_MS, ENOUGH_TICKS * tickMs());
    const start = performance.now();
    for (const [i, { kernel, sizes, arrays, workgroups, tiles }] of trials.entries()) {
      const { rows, chunks, tokens } = segment;
      // Activations are zeros, and weights are not uploaded: multiplying zeros takes no less time.
      const bound = [
        buffer(16, UNIFORM, Uint32Array.of(rows, chunks, tokens, 0)),
        buffer(16, UNIFORM, Uint32Array.from(sizes)),
        ...arrays.map((array) =>
          typeof array === "number" ? (areas[array] as GPUBuffer) : buffer(array.byteLength, STORAGE),
        ),
      ];
      const time = async (tile: Tile, repeats: number): Promise<number> => {
        const pipeline = await (compiled[i]?.[tiles.indexOf(tile)] as Promise<GPUComputePipeline>);
        const begin = performance.now();
        const { value: done, clean } = device.scoped("trying a tile", () => {
          const encoder = device.handle.createCommandEncoder();
          const pass = encoder.beginComputePass();
          pass.setPipeline(pipeline);
          const entries = bound.map((buffer, binding) => ({ binding, resource: { buffer } }));
          const layout = pipeline.getBindGroupLayout(0);
          pass.setBindGroup(0, device.handle.createBindGroup({ layout, entries }));
          for (let n = 0; n < repeats; n++) pass.dispatchWorkgroups(...spread(workgroups(segment, tile)));
          pass.end();
          device.handle.queue.submit([encoder.finish()]);
          return device.handle.queue.onSubmittedWorkDone();
        });
        await device.wait(Promise.all([done, clean]), DEADLINE_MS);
        return performance.now() - begin;
      };
      const [plain, ...others] = tiles as [Tile, ...Tile[]];
      const once = await time(plain, 1);
      let repeats = 1;
      let least = await time(plain, repeats);
      while (least < once + enough && repeats < MOST_REPEATS) {
        repeats *= 4;
        least = await time(plain, repeats);
      }
      for (const tile of others) {
        if (performance.now() - start > BUDGET_MS) return best;
        const taken = Math.min(await time(tile, repeats), await time(tile, repeats));
        if (taken >= 0.95 * least) continue;
        [best[kernel], least] = [tile, taken];
      }
    }
    best.liftedOutput = best.output;
    return best;
  } finally {
    for (const made of buffers) made.destroy();
  }
}

/** How far apart the times are that the clock tells. */
function tickMs(): number {
  const start = performance.now();
  let end = start;
  for (let reads = 0; end === start && reads < MOST_READS; reads++) end = performance.now();
  return end - start;
}

function trial(width: number): Program {
  const layer = programOf(initLru({ dModel: width, dState: width }), "lru");
  const widths = { inWidth: width, outWidth: width, kernel: new Float32Array(width ** 2), bias: null };
  return {
    ...layer,
    stages: [...layer.stages, { kind: "dense", name: "", src: layer.output, dst: 0, ...widths }],
    output: 0,
  };
}
