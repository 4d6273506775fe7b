/** The GPU's tiles: one gives the bits that another gives, and the fastest is found by trying. */
import { afterEach, describe, expect, test, vi } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import type { Program, Stage } from "../src/program.js";
import { State, stateLayout } from "../src/state.js";
import { WebgpuBackend } from "../src/webgpu/backend.js";
import { type Device, openDevice } from "../src/webgpu/device.js";
import type { Pipelines } from "../src/webgpu/pipelines.js";
import {
  plainTile,
  plainTiles,
  slabOf,
  softwareTiles,
  T,
  type Tile,
  type TiledKernel,
  tilesFor,
} from "../src/webgpu/tiles.js";
import { tune, tunedTiles } from "../src/webgpu/tune.js";
import { expectSameBits } from "./support/bits.js";
import { floats, hardParams } from "./support/problems.js";

const kernels = ["projectScan", "output", "dense"] as const;
const [dModel, dState, hidden, outWidth] = [70, 67, 131, 50];

const stages: Stage[] = [
  { kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState, params: hardParams(dModel, dState, 3) },
  {
    ...{ kind: "dense", name: "dense", src: 1, dst: 2, inWidth: dModel, outWidth: hidden },
    ...{ kernel: floats(dModel * hidden, 4), bias: floats(hidden, 5) },
  },
  {
    ...{ kind: "dense", name: "dense", src: 2, dst: 3, inWidth: hidden, outWidth },
    ...{ kernel: floats(hidden * outWidth, 9), bias: floats(outWidth, 10) },
  },
  {
    ...{ kind: "layerNorm", name: "norm", src: 3, dst: 3, width: outWidth, epsilon: 1e-5 },
    ...{ scale: floats(outWidth, 11), bias: floats(outWidth, 12) },
  },
];
const program: Program = { architecture: "", slots: [dModel, dModel, hidden, outWidth], stages, output: 3 };

function makeJob(lengths: number[], resets: number[][] | undefined, every: number): ForwardJob {
  const [batch, seqLen] = [lengths.length, Math.max(...lengths)];
  const state = new State(stateLayout(program), batch);
  for (let row = 0; row < batch; row++)
    for (const slot of state.layout.slots) state.write(slot, row, floats(slot.size, 6), floats(slot.size, 7));
  return {
    ...{ batch, seqLen, state, every, threads: 0, signal: undefined, onProgress: undefined },
    lengths: Int32Array.from(lengths),
    resets: resets?.map((tokens) => Int32Array.from(tokens)),
    x: floats(batch * seqLen * dModel, 8),
    y: new Float32Array(batch * Math.floor(seqLen / every) * outWidth),
  };
}

test("every tile gives the same bits", async (context) => {
  const opened = await openDevice();
  if ("reason" in opened) return context.skip(opened.reason);
  const { device } = opened;
  const settings: [number[], number[][] | undefined, number][] = [
    [[32, 1, 31], undefined, 1],
    // Fewer chunks than before: of the third, the table still says where it was.
    [[60], undefined, 1],
    [[100, 0, 32, 33, 1], undefined, 1],
    [[130, 70], [[1, 40, 41], [64]], 3],
  ];
  const run = async (tiles: typeof plainTiles) => {
    const runner = await new WebgpuBackend(device, tiles).prepare(program);
    const jobs = settings.map((setting) => makeJob(...setting));
    for (const job of jobs) await runner.forward(job);
    runner.dispose();
    return jobs;
  };
  const expected = await run(softwareTiles);
  // With less staged at a time, which a software adapter is much faster to compile: it is no other code.
  const lists = kernels.map((kernel) =>
    tilesFor(kernel, device)
      .slice(1)
      .map((tile) => ({ ...tile, slab: tile.lanes * tile.cols > 64 && kernel === "projectScan" ? 16 : 8 })),
  );
  const count = Math.max(...lists.map(({ length }) => length));
  expect(count).toBeGreaterThan(2);
  for (let i = 0; i < count; i++) {
    const [projectScan, output, dense] = lists.map((list) => list[i % list.length] as Tile) as [
      Tile,
      Tile,
      Tile,
    ];
    const jobs = await run({ ...plainTiles, projectScan, output, dense, liftedOutput: output });
    for (const [n, { y, state }] of jobs.entries()) {
      const what = `setting ${n}, tiles ${JSON.stringify({ projectScan, output, dense })}`;
      const plain = expected[n] as ForwardJob;
      expectSameBits(y, plain.y, what);
      for (const slot of state.layout.slots) {
        for (let row = 0; row < plain.batch; row++) {
          expectSameBits(state.read(slot, row).re, plain.state.read(slot, row).re, what);
          expectSameBits(state.read(slot, row).im, plain.state.read(slot, row).im, what);
        }
      }
    }
  }
  device.dispose();
}, 180_000); // SwiftShader compiles for seconds

test("states that read back: a tile whose threads take turns gives the bits of one whose do not", async (context) => {
  const opened = await openDevice();
  if ("reason" in opened) return context.skip(opened.reason);
  const { device } = opened;
  const [dModel, dState] = [5, 37];
  const params = hardParams(dModel, dState, 9);
  const both: Program = {
    ...{ architecture: "", slots: [dModel, dModel], output: 1 },
    stages: [{ kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState, params, backward: 20 }],
  };
  const settings: [number[], number[][] | undefined][] = [
    [[32, 1, 31, 9], undefined],
    [
      [130, 0, 70, 33],
      [[1, 40, 41], [], [64], []],
    ],
  ];
  const run = async (projectScan: Tile) => {
    const tiles = { ...softwareTiles, projectScan };
    const runner = await new WebgpuBackend(device, tiles).prepare(both);
    const ys: Float32Array[] = [];
    for (const [lengths, resets] of settings) {
      const [batch, seqLen] = [lengths.length, Math.max(...lengths)];
      const y = new Float32Array(batch * seqLen * dModel);
      await runner.forward({
        ...{ batch, seqLen, y, x: floats(y.length, 8), state: new State(stateLayout(both), batch) },
        ...{ lengths: Int32Array.from(lengths), resets: resets?.map((at) => Int32Array.from(at)) },
        ...{ threads: 0, signal: undefined, onProgress: undefined },
      });
      ys.push(y);
    }
    runner.dispose();
    return ys;
  };
  const expected = await run(softwareTiles.projectScan);
  // Smaller than any that a GPU gets, and sooner compiled.
  const ys = await run({ rows: 8, cols: 2, lanes: 4, chunks: 2, slab: 8 });
  for (const [i, y] of ys.entries()) expectSameBits(y, expected[i] as Float32Array, `setting ${i}`);
  device.dispose();
}, 60_000);

test("rows of one chunk give the bits that they give beside longer rows", async (context) => {
  const opened = await openDevice();
  if ("reason" in opened) return context.skip(opened.reason);
  const { device } = opened;
  const [dModel, dState] = [64, 70];
  const params = hardParams(dModel, dState, 9);
  const narrow: Program = {
    ...{ architecture: "", slots: [dModel, dModel], output: 1 },
    stages: [
      { kind: "lru", name: "lru", src: 0, dst: 1, dModel, dState, params },
      { kind: "gelu", name: "gelu", src: 1, dst: 1, width: dModel },
    ],
  };
  const short = [T, 1, 9, 0, T - 1, 8];
  for (const oneChunk of [softwareTiles.oneChunk, { ...plainTiles.oneChunk, slab: 8 }]) {
    const runner = await new WebgpuBackend(device, { ...softwareTiles, oneChunk }).prepare(narrow);
    const run = async (lengths: number[]) => {
      const [batch, seqLen] = [lengths.length, Math.max(...lengths)];
      const x = new Float32Array(batch * seqLen * dModel);
      const state = new State(stateLayout(narrow), batch);
      const [slot] = state.layout.slots as [(typeof state.layout.slots)[0]];
      for (const [row, length] of lengths.entries()) {
        if (row !== 2) state.write(slot, row, floats(dState, 10 + row), floats(dState, 20 + row));
        x.set(floats(length * dModel, 30 + row), row * seqLen * dModel);
      }
      const y = new Float32Array(x.length);
      const none = { signal: undefined, onProgress: undefined, threads: 0 };
      await runner.forward({ batch, seqLen, lengths: Int32Array.from(lengths), x, y, state, ...none });
      return lengths.map((length, row) => {
        const { re, im } = state.read(slot, row);
        return [y.slice(row * seqLen * dModel, (row * seqLen + length) * dModel), re.slice(), im.slice()];
      });
    };
    const alone = await run(short);
    const beside = await run([...short, T + 1]);
    for (const [row, values] of alone.entries()) {
      for (const [i, mine] of values.entries())
        expectSameBits(mine, beside[row]?.[i] as Float32Array, `row ${row}, ${["y", "re", "im"][i]}`);
    }
    runner.dispose();
  }
  device.dispose();
});

/** A device on which a dispatch takes as long as `costOf` says, by a clock that stands still otherwise. */
function fakeGpu(costOf: (kernel: string, tile: Tile) => number, description: string, threads = 1024) {
  let clock = 0;
  vi.spyOn(performance, "now").mockImplementation(() => clock);
  let work = 0;
  let running: { kernel: string; tile: Tile } | undefined;
  const queue = {
    writeBuffer() {},
    submit() {
      clock += work;
      work = 0;
    },
    async onSubmittedWorkDone() {},
  };
  const pass = {
    setPipeline(pipeline: typeof running) {
      running = pipeline;
    },
    setBindGroup() {},
    dispatchWorkgroups() {
      work += running ? costOf(running.kernel, running.tile) : 0;
    },
    end() {},
  };
  const handle = {
    limits: { maxComputeInvocationsPerWorkgroup: threads, maxComputeWorkgroupSizeX: threads },
    queue,
    createBuffer: () => ({ destroy() {} }),
    createBindGroup() {},
    createCommandEncoder: () => ({ beginComputePass: () => pass, finish() {} }),
  };
  const device = {
    ...{ handle, description, software: false },
    scoped: (_what: string, calls: () => unknown) => ({ value: calls(), clean: Promise.resolve() }),
    wait: (promise: Promise<unknown>) => promise,
  };
  const asked: Tile[] = [];
  const pipelines = {
    async get(kernel: string, tile: Tile) {
      asked.push(tile);
      return { kernel, tile, getBindGroupLayout() {} };
    },
  };
  return { device: device as unknown as Device, pipelines: pipelines as unknown as Pipelines, asked };
}

describe("tuning", () => {
  afterEach(() => {
    vi.restoreAllMocks();
  });

  test("picks the fastest tile of each kernel, and keeps the plain one unless another is clearly faster", async () => {
    const costs = { projectScan: [3, 2, 1, 2, 2], output: [3, 3, 2.9, 3, 3], dense: [9, 9, 9, 9, 1] };
    const { device, pipelines } = fakeGpu((kernel, tile) => {
      const list = tilesFor(kernel as TiledKernel, device);
      return (costs[kernel as "dense"][list.indexOf(tile)] as number) / 10;
    }, "");
    const tiles = await tune(device, pipelines, 8, 2);
    expect(tiles.projectScan).toBe(tilesFor("projectScan", device)[2]);
    expect(tiles.output).toBe(plainTile);
    expect(tiles.dense).toBe(tilesFor("dense", device)[4]);
  });

  test("two tiles are enough to choose from", async () => {
    const { device, pipelines } = fakeGpu((_, tile) => (tile === plainTile ? 2 : 1), "", 128);
    expect(tilesFor("dense", device).length).toBe(2);
    expect((await tune(device, pipelines, 8, 2)).dense).toBe(tilesFor("dense", device)[1]);
  });

  test("stops where every answer takes long", async () => {
    const { device, pipelines } = fakeGpu((_, tile) => (tile === plainTile ? 110 : 1), "");
    expect(await tune(device, pipelines, 8, 2)).toEqual(plainTiles);
  });

  test("happens once for a kind of GPU, and never on a software adapter", async () => {
    const { device, pipelines, asked } = fakeGpu(() => 1, "a GPU of this test");
    const first = tunedTiles(device, pipelines);
    expect(tunedTiles(device, pipelines)).toBe(first);
    await first;
    const trials = asked.length;
    expect(trials).toBe(kernels.reduce((sum, kernel) => sum + tilesFor(kernel, device).length, 0));
    expect(await tunedTiles({ ...device, software: true } as Device, pipelines)).toBe(softwareTiles);
    expect(asked.length).toBe(trials);
    // The same GPU, opened with the limits that every device has, cannot run all that was tried before.
    const { handle } = fakeGpu(() => 1, "", 256).device;
    await tunedTiles({ ...device, handle } as Device, pipelines);
    expect(asked.length).toBeGreaterThan(trials);
  });

  test("a driver that refuses a tile leaves the plain ones, and is asked again", async () => {
    const { device } = fakeGpu(() => 1, "a GPU that refuses");
    let refused = 0;
    const refusing = {
      async get(_kernel: string, tile: Tile) {
        if (tile === plainTile) return {};
        refused++;
        throw new Error("no");
      },
    } as unknown as Pipelines;
    expect(await tunedTiles(device, refusing)).toBe(plainTiles);
    const before = refused;
    expect(await tunedTiles(device, refusing)).toBe(plainTiles);
    expect(refused).toBeGreaterThan(before);
  });

  test("every tile keeps within the limits that every device has, or asks for threads only", () => {
    const { device } = fakeGpu(() => 1, "", 256);
    for (const kernel of kernels) {
      const usual = tilesFor(kernel, device);
      expect(usual[0]).toBe(plainTile);
      const larger = tilesFor(kernel, fakeGpu(() => 1, "").device);
      expect(larger.length).toBeGreaterThan(usual.length);
      for (const tile of larger) {
        const bytes = (kernel === "output" ? 8 : 4) * 32 * tile.chunks * slabOf(kernel, tile);
        expect(bytes).toBeLessThanOrEqual(16384);
        expect((kernel === "projectScan" ? 2 : 1) * tile.rows * tile.cols).toBeLessThanOrEqual(64);
      }
    }
  });
});
