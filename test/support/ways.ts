/** Every way to run a program, without an engine around it. */
import { afterAll, beforeAll, type TestContext } from "vitest";
import type { Backend, Runner } from "../../src/backend.js";
import { openWasm } from "../../src/cpu/backend.js";
import { widen } from "../../src/cpu/widen.js";
import { outputWidth, type Program, poolOf } from "../../src/program.js";
import { ReferenceBackend } from "../../src/reference.js";
import { State, stateLayout } from "../../src/state.js";
import { openWebgpu } from "../../src/webgpu/backend.js";
import { builds } from "./engines.js";

export interface Way {
  readonly name: string;
  readonly threads: number;
  readonly isGpu: boolean;
  open(): Promise<Backend | { readonly reason: string }>;
}

const onCpu = (simd: (typeof builds)[number], threads: number, sharedMemory: boolean): Way => ({
  name: `wasm, ${simd}, ${threads} threads, ${sharedMemory ? "shared" : "private"} memory`,
  threads,
  isGpu: false,
  open: async () => {
    const options = { workerUrl: undefined, wasm: undefined, onTrouble: () => undefined };
    const backend = await openWasm({ simd, threads, sharedMemory, ...options });
    await widen(backend);
    return backend;
  },
});

export const ways: Way[] = [
  { name: "reference", threads: 0, isGpu: false, open: async () => new ReferenceBackend() },
  ...builds.flatMap((build) => [onCpu(build, 0, true), onCpu(build, 2, true), onCpu(build, 2, false)]),
  {
    name: "webgpu",
    threads: 0,
    isGpu: true,
    open: async () => {
      const opened = await openWebgpu();
      return "reason" in opened ? opened : opened.backend;
    },
  },
];

/** Opens a way for the tests of a describe block: each gets the backend here, or is skipped with the reason. */
export function opened({ open }: Way): (context: TestContext) => Backend {
  let way: Awaited<ReturnType<Way["open"]>>;
  beforeAll(async () => {
    way = await open();
  });
  afterAll(async () => {
    if ("name" in way) await way.dispose();
  });
  return (context) => ("name" in way ? way : context.skip(way.reason));
}

/** Runs a program from zeros. */
export async function runWay(
  backend: Backend,
  threads: number,
  program: Program,
  x: Float32Array,
  batch: number,
  seqLen: number,
  lengths = new Int32Array(batch).fill(seqLen),
): Promise<{ y: Float32Array; state: State }> {
  const y = new Float32Array(batch * (poolOf(program) ? 1 : seqLen) * outputWidth(program));
  const state = new State(stateLayout(program), batch);
  const runner: Runner = await backend.prepare(program);
  const job = { batch, seqLen, lengths, x, y, state, threads };
  await runner.forward({ ...job, signal: undefined, onProgress: undefined });
  runner.dispose();
  return { y, state };
}
