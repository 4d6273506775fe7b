/**
 * The kernels as compute pipelines, and how a dispatch is described. Every kernel binds `segment` first, its `sizes`
 * second, and then its arrays in the order of its AssemblyScript twin: what it writes first.
 */
import { LinrecError, messageOf } from "../errors.js";
import type { Device } from "./device.js";
import add from "./kernels/add.wgsl?raw";
import batchNorm from "./kernels/batchNorm.wgsl?raw";
import carryScan from "./kernels/carryScan.wgsl?raw";
import copyRows from "./kernels/copyRows.wgsl?raw";
import dense from "./kernels/dense.wgsl?raw";
import embedding from "./kernels/embedding.wgsl?raw";
import gelu from "./kernels/gelu.wgsl?raw";
import glu from "./kernels/glu.wgsl?raw";
import layerNorm from "./kernels/layerNorm.wgsl?raw";
import logSoftmax from "./kernels/logSoftmax.wgsl?raw";
import normalize from "./kernels/normalize.wgsl?raw";
import oneChunk from "./kernels/oneChunk.wgsl?raw";
import output from "./kernels/output.wgsl?raw";
import pool from "./kernels/pool.wgsl?raw";
import projectScan from "./kernels/projectScan.wgsl?raw";
import skip from "./kernels/skip.wgsl?raw";
import slotPool from "./kernels/slotPool.wgsl?raw";
import slotScan from "./kernels/slotScan.wgsl?raw";
import timedScan from "./kernels/timedScan.wgsl?raw";
import window from "./kernels/window.wgsl?raw";
import preludeSource from "./prelude.wgsl?raw";
import { plainTile, plainTiles, T, type Tile, type TiledKernel, type Tiles, tileConstants } from "./tiles.js";

const sources = {
  add,
  batchNorm,
  carryScan,
  copyRows,
  dense,
  embedding,
  gelu,
  glu,
  layerNorm,
  liftedOutput: output,
  logSoftmax,
  oneChunk,
  output,
  pool,
  projectScan,
  skip,
  slotPool,
  slotScan,
  timedScan,
  window,
};

export type KernelName = keyof typeof sources;

/** Chunks in a group of the carry scan's first level. */
export const GROUP = 64;

/** No dimension of a dispatch may be larger (a WebGPU default limit, and in practice everybody's). */
const MAX_GROUPS = 65535;

/** A compilation has hung: a cold driver takes a second or two. */
const COMPILE_DEADLINE_MS = 60_000;

/** What every kernel is compiled with. */
const prelude = `const T = ${T}u;\nconst GROUP = ${GROUP}u;\n${preludeSource}`;

const noNorm = "fn normalize(sums: ptr<function, array<vec4f, QUADS * COLS>>, thread: u32, width: u32) {}\n";
const products = { COMPLEX: "vec2f(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x)", REAL: "a * b" };

/** How much is run at a time. */
export interface Segment {
  readonly rows: number;
  readonly chunks: number;
  readonly tokens: number;
  readonly outputs: number;
  /** `outputs` if not every token gives one, else 0. */
  readonly thinned: number;
}

/** `rows` x `seqLen` tokens, each of which gives an output. */
export function segmentOf(rows: number, seqLen: number): Segment {
  const tokens = rows * seqLen;
  return { rows, chunks: rows * Math.ceil(seqLen / T), tokens, outputs: tokens, thinned: 0 };
}

/** The kernels' struct of that name. */
export function segmentWords(
  { rows, chunks, tokens }: Segment,
  isThinned: boolean,
): Uint32Array<ArrayBuffer> {
  return new Uint32Array([rows, chunks, tokens, isThinned ? 1 : 0]);
}

/** Workgroups in x and y. The kernels' `flatten` gives each its number; those past `count` do nothing. */
export function spread(count: number): [x: number, y: number] {
  const y = Math.ceil(count / MAX_GROUPS);
  return [Math.ceil(count / Math.max(1, y)), y];
}

/** The tile of a kernel that has one. */
export function tileOf(tiles: Tiles, kernel: KernelName): Tile {
  return isTiled(kernel) ? tiles[kernel] : plainTile;
}

const isTiled = (kernel: KernelName): kernel is TiledKernel => kernel in plainTiles;

/**
 * A kernel as the GPU's compiler gets it.
 * @param epilogue what becomes of a value v of y before it is stored: statements, in which `other(n)` and `kept(n)` are other
 * arrays' values there, `parameter(n)` those of its column, and `input` that of u (lifted `u[i]`). Or
 * "norm", 2 of layers or 1 of RMS, the columns that are taken for a row, and epsilon.
 * @param real each part of a state is a state by itself
 * @param back some states read rows from their ends
 */
export function shaderOf(
  kernel: KernelName,
  tile = plainTile,
  epilogue: readonly string[] = [],
  real = false,
  back = false,
): string {
  const shared = prelude.replace("COMPLEX", products[real ? "REAL" : "COMPLEX"]).replace("BACK", `${back}`);
  if (!isTiled(kernel)) return shared + sources[kernel];
  const lift = `const LIFT = ${Number(kernel === "liftedOutput")}u;\n`;
  const statements = epilogue
    .join("\n")
    .replace(/(other|kept)\((\d)\)/g, "$1$2[i]")
    .replace(/parameter\((\d+)\)/g, "parameter($1, j)");
  const first = (sources[kernel].match(/@binding/g) ?? []).length;
  const others = [...new Set(statements.match(/(other|kept)\d/g))].map((name, n) => {
    const access = name.startsWith("kept") ? "read_write" : "read";
    return `@group(0) @binding(${first + n}) var<storage, ${access}> ${name}: array<f32>;\n`;
  });
  const [before = "", norm, row, epsilon, after = ""] = statements.split(/norm (\d) (\d+) (.*)\n/);
  const finish = (name: string, statements: string) =>
    `fn ${name}(value: f32, i: u32, j: u32, input: f32) -> f32 {\nvar v = value;\n${statements}\nreturn v;\n}\n`;
  return [
    ...[shared, lift, tileConstants(kernel, tile), ...others, finish("finish", before)],
    ...[
      `const NORM = ${norm ?? 0}u;\n`,
      `const ROOM = ${norm ? "max(TILE * SLAB, THREADS)" : "TILE * SLAB"};\n`,
    ],
    finish("finishNorm", after),
    norm ? `const EPSILON = ${epsilon};\nconst ROW = ${row}u;\n${normalize}` : noNorm,
    sources[kernel],
  ].join("");
}

/** The name that the kernel has in its shader. */
export function entryPointOf(kernel: KernelName): string {
  return kernel === "liftedOutput" ? "output" : kernel;
}

/** Compiles each kernel once for a device, when it is first needed. */
export class Pipelines {
  /** Those that are used: the fastest, once they have been found, unless others are given. */
  tiles: Tiles | undefined;
  readonly #device: Device;
  readonly #compiled = new Map<string, Promise<GPUComputePipeline>>();

  constructor(device: Device, tiles?: Tiles) {
    this.#device = device;
    this.tiles = tiles;
  }

  /** Rejects with `gpu-failed` and the compiler's words. */
  get(
    kernel: KernelName,
    tile?: Tile,
    epilogue?: readonly string[],
    real?: boolean,
    back?: boolean,
  ): Promise<GPUComputePipeline> {
    const code = shaderOf(kernel, tile, epilogue, real, back);
    let pipeline = this.#compiled.get(code);
    if (!pipeline) {
      pipeline = this.#compile(kernel, code);
      this.#compiled.set(code, pipeline);
      pipeline.catch(() => this.#compiled.delete(code)); // there may be memory the next time
    }
    return pipeline;
  }

  async #compile(kernel: KernelName, code: string): Promise<GPUComputePipeline> {
    const device = this.#device;
    const { value: module, clean } = device.scoped(`compiling ${kernel}`, () =>
      device.handle.createShaderModule({ label: kernel, code }),
    );
    const options = {
      label: kernel,
      layout: "auto",
      compute: { module, entryPoint: entryPointOf(kernel) },
    } as const;
    const pipeline = device.handle.createComputePipelineAsync(options).catch((error) => {
      const message = `The GPU driver refused the kernel ${kernel}: ${messageOf(error)}`;
      throw new LinrecError("gpu-failed", message, { cause: error });
    });
    // The scope's error first: it has the compiler's own words.
    pipeline.catch(() => {}); // nobody looks at it if the scope has one
    return device.wait(
      clean.then(() => pipeline),
      COMPILE_DEADLINE_MS,
    );
  }
}
