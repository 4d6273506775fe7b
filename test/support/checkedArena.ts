/**
 * The CPU engine with guards: every region of its memory, and every part of a tile's scratch block, has words around it that
 * nobody may write to. They are looked at after each call of a kernel, when a region is freed, and whenever `damage` is
 * asked. Guards are NaN as numbers, so that whoever reads them is seen too.
 *
 * Regions are made for the largest tile, and most tiles are smaller: a write past the end of one is still far from a guard.
 * So what is around the outputs of each call (`kernelWrites.ts`) is compared with what was there before the call.
 *
 * So it is on a calling thread that is alone, and in workers with a memory of their own. Threads that share one write to
 * neighbouring rows at the same time: there the guards alone are looked at.
 *
 * A test file puts it in place of the real one:
 *
 *     vi.mock("../src/cpu/arena.js", async (original) => checkedArena(await original()));
 *     vi.mock("../src/cpu/packed.js", async (original) => checkedPacked(await original()));
 *     vi.mock("../src/cpu/instantiate.js", async (original) => checkedKernels(await original()));
 *     vi.mock("../src/cpu/backend.js", async (original) => checkedBackend(await original()));
 *     vi.mock("../src/cpu/embedded.gen.js", async (original) => checkedWorker(await original()));
 */
import { fileURLToPath } from "node:url";
import type { Arena } from "../../src/cpu/arena.js";
import type { openWasm } from "../../src/cpu/backend.js";
import type { Kernels } from "../../src/cpu/instantiate.js";
import type { PackedProgram, Scratch } from "../../src/cpu/packed.js";
import { kernelWrites, type Output } from "./kernelWrites.js";

/** Bytes before and after; what the arena aligns to. */
const GUARD = 128;
const FILL = 0xff;

interface Region {
  readonly bytes: number;
  /** Where the guards within it start. */
  readonly inner: readonly number[];
}

interface Checked {
  readonly regions: Map<number, Region>;
  readonly memory: WebAssembly.Memory;
}

const arenas = new Set<Checked>();
/** Memories that other threads may be writing to. */
const sharedWithWorkers = new WeakSet<WebAssembly.Memory>();
/** Scratch blocks by their size, which nothing else has. */
const scratches = new Map<number, readonly number[]>();
let serial = 0;
/** Calls of kernels that were looked at after. */
export let checkedCalls = 0;

/** Writes that kernels were caught at, and what engines have said of their workers: a worker that finds damage throws. */
const caught: string[] = [];

/** The first guard that does not stand, or write that was caught, in words. */
export function damage(within: Iterable<Checked> = arenas): string | undefined {
  for (const arena of within) {
    for (const start of arena.regions.keys()) {
      const text = damageOf(arena, start);
      if (text) return text;
    }
  }
  return caught[0];
}

/** As {@link damage}, of what was planted: it is forgotten. */
export function takeDamage(): string | undefined {
  const text = damage();
  caught.length = 0;
  arenas.clear();
  return text;
}

function damageOf({ memory, regions }: Checked, start: number): string | undefined {
  const words = new Int32Array(memory.buffer);
  const { bytes, inner } = regions.get(start) as Region;
  return (
    broken(start - GUARD) ?? broken(start + bytes) ?? inner.map((at) => broken(start + at)).find(Boolean)
  );

  function broken(place: number): string | undefined {
    // The words that are wholly the guard's: what it stands after may end within one.
    for (let i = Math.ceil(place / 4); i < Math.floor((place + GUARD) / 4); i++)
      if (words[i] !== -1) return `a region of ${bytes} bytes was written to at ${4 * i - start}`;
    return undefined;
  }
}

export function checkedArena(module: { Arena: typeof Arena }) {
  class CheckedArena extends module.Arena {
    readonly #checked: Checked;

    constructor(memory: WebAssembly.Memory) {
      super(memory);
      this.#checked = { memory, regions: new Map() };
      arenas.add(this.#checked);
    }

    override allocate(bytes: number): number {
      const start = super.allocate(bytes + 2 * GUARD) + GUARD;
      const inner = scratches.get(bytes) ?? [];
      // What is within is nobody's yet: who reads it before it was written gets NaN.
      new Uint8Array(this.memory.buffer).fill(FILL, start - GUARD, start + bytes + GUARD);
      this.#checked.regions.set(start, { bytes, inner });
      return start;
    }

    override free(start: number): void {
      if (!this.#checked.regions.has(start)) return;
      const text = damageOf(this.#checked, start);
      this.#checked.regions.delete(start);
      super.free(start - GUARD);
      if (text) throw new Error(text);
    }
  }
  return { ...module, Arena: CheckedArena };
}

type Tiles = Pick<PackedProgram, "tileTokens" | "scratch">;

interface Packing {
  packProgram(...args: never[]): PackedProgram;
  planTiles(...args: never[]): Tiles;
}

export function checkedPacked<Module extends Packing>(module: Module) {
  const spaced = <Planned extends Tiles>(packed: Planned): Planned => ({
    ...packed,
    scratch: withGuards(packed.scratch),
  });
  return {
    ...module,
    packProgram: (...args: never[]) => spaced(module.packProgram(...args)),
    planTiles: (...args: never[]) => spaced(module.planTiles(...args)),
  };
}

/** The parts of a scratch block further apart. */
function withGuards({ slots, h, carries, fresh, lambdas, bytes }: Scratch): Scratch {
  const starts = [...new Set([...slots, h, carries, fresh, lambdas])].sort((a, b) => a - b);
  const moved = (at: number) => at + GUARD * starts.indexOf(at);
  const size = bytes + GUARD * starts.length + GUARD * ++serial + 1; // odd: no array is of that size
  scratches.set(
    size,
    starts.slice(1).map((at) => moved(at) - GUARD),
  );
  return {
    ...{ slots: slots.map(moved), h: moved(h), carries: moved(carries), fresh: moved(fresh) },
    ...{ lambdas: moved(lambdas), bytes: size },
  };
}

type Call = (...args: number[]) => void;

export function checkedKernels<
  Module extends { instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<Kernels> },
>(original: Module) {
  const instantiate: Module["instantiate"] = async (module, memory) => {
    const kernels = await original.instantiate(module, memory);
    const wrapped = Object.entries(kernels).map(([name, kernel]) => [
      name,
      (...args: number[]) => {
        const outputs = (kernelWrites[name as keyof Kernels] as (...args: number[]) => Output[])(...args);
        const ours = [...arenas].filter((arena) => arena.memory === memory);
        const isWatched = ours.length > 0 && !sharedWithWorkers.has(memory);
        const text = callWatched(memory, isWatched ? outputs : [], () => (kernel as Call)(...args));
        checkedCalls++;
        if (text) caught.push(`${name}: ${text}`);
        const found = damage(ours);
        if (found) throw new Error(found);
      },
    ]);
    return Object.fromEntries(wrapped);
  };
  return { ...original, instantiate };
}

/** Calls a kernel. What it has written to, if not to its outputs, in words. */
function callWatched(
  memory: WebAssembly.Memory,
  outputs: readonly Output[],
  call: () => void,
): string | undefined {
  const around = outputs.map(({ at, bytes, rows = 1, stride = 0 }) => {
    const last = at + Math.max(0, rows - 1) * stride;
    const start = Math.max(0, Math.min(at, last) - GUARD);
    return { start, before: Buffer.from(memory.buffer.slice(start, Math.max(at, last) + bytes + GUARD)) };
  });
  call();
  const now = Buffer.from(memory.buffer);
  for (const { start, before } of around) {
    const end = start + before.length;
    for (const { at, bytes, rows = 1, stride = 0 } of outputs) {
      for (let row = 0; row < rows; row++) {
        const from = Math.max(at + row * stride, start);
        const to = Math.min(at + row * stride + bytes, end);
        if (from < to) now.copy(before, from - start, from, to);
      }
    }
    if (now.compare(before, 0, before.length, start, end) === 0) continue;
    const at = start + before.findIndex((byte, i) => now[start + i] !== byte);
    const allowed = outputs.map(({ at, bytes, rows = 1 }) => `${rows} x ${bytes} bytes from ${at} on`);
    return `a write to ${at}, not to ${allowed.join(" or ")}`;
  }
  return undefined;
}

/** Notes what is said of workers, and which memories they share. */
export function checkedBackend<Module extends { openWasm: typeof openWasm }>(module: Module) {
  const open: typeof openWasm = async (options) => {
    const onTrouble = (message: string) => {
      caught.push(message);
      options.onTrouble(message);
    };
    const backend = await module.openWasm({ ...options, onTrouble });
    if (options.threads > 0 && backend.shared) sharedWithWorkers.add(backend.arena.memory);
    return backend;
  };
  return { ...module, openWasm: open };
}

/** The worker with guards of its own. */
export async function checkedWorker<Module extends { workerSource: string }>(module: Module) {
  const { build } = await import("esbuild");
  const here = fileURLToPath(import.meta.url);
  const checks = { arena: "checkedArena", instantiate: "checkedKernels" };
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL("../../workers/worker.ts", import.meta.url))],
    ...{ bundle: true, write: false, format: "esm", platform: "node", mainFields: ["module", "main"] },
    external: ["esbuild"],
    plugins: [
      {
        name: "checked",
        setup({ onResolve, onLoad }) {
          onResolve({ filter: /\/cpu\/(arena|instantiate)\.js$/ }, ({ path, resolveDir }) => ({
            path: fileURLToPath(new URL(path.replace(".js", ".ts"), `file://${resolveDir}/`)),
            namespace: "checked",
          }));
          onLoad({ filter: /./, namespace: "checked" }, ({ path }) => {
            const name = path.replace(/^.*\/|\.ts$/g, "") as keyof typeof checks;
            const contents = `
              import * as original from ${JSON.stringify(path)};
              import { ${checks[name]} } from ${JSON.stringify(here)};
              export const { Arena, createMemory, instantiate } = ${checks[name]}(original);`;
            return { contents, resolveDir: "/" };
          });
        },
      },
    ],
  });
  return { ...module, workerSource: outputFiles[0]?.text as string };
}
