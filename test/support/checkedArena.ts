/**
 * The CPU engine with guards: every region of its memory, and every part of a tile's scratch block, has words around it that
 * nobody may write to. They are looked at after each call of a kernel on this thread, when a region is freed, and whenever
 * `damage` is asked. Guards are NaN as numbers, so that whoever reads them is seen too.
 *
 * A test file puts it in place of the real one:
 *
 *     vi.mock("../src/cpu/arena.js", async (original) => checkedArena(await original()));
 *     vi.mock("../src/cpu/packed.js", async (original) => checkedPacked(await original()));
 *     vi.mock("../src/cpu/instantiate.js", async (original) => checkedKernels(await original()));
 */
import type { Arena } from "../../src/cpu/arena.js";
import type { Kernels } from "../../src/cpu/instantiate.js";
import type { PackedProgram, Scratch } from "../../src/cpu/packed.js";

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
/** Scratch blocks by their size, which no two share. */
const scratches = new Map<number, readonly number[]>();
let serial = 0;
/** Calls of kernels that were looked at after. */
export let checkedCalls = 0;

/** The first guard that does not stand, in words. */
export function damage(): string | undefined {
  for (const arena of arenas) {
    for (const start of arena.regions.keys()) {
      const text = damageOf(arena, start);
      if (text) return text;
    }
  }
  return undefined;
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
      const memory = new Uint8Array(this.memory.buffer);
      for (const place of [start - GUARD, start + bytes, ...inner.map((at) => start + at)])
        memory.fill(FILL, place, place + GUARD);
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

interface Packing {
  packProgram(...args: never[]): PackedProgram;
  withTiles(...args: never[]): PackedProgram;
}

export function checkedPacked<Module extends Packing>(module: Module) {
  const spaced = (packed: PackedProgram): PackedProgram => ({
    ...packed,
    scratch: withGuards(packed.scratch),
  });
  return {
    ...module,
    packProgram: (...args: never[]) => spaced(module.packProgram(...args)),
    withTiles: (...args: never[]) => spaced(module.withTiles(...args)),
  };
}

/** The parts of a scratch block further apart. */
function withGuards({ slots, h, carries, fresh, lambdas, bytes }: Scratch): Scratch {
  const starts = [...new Set([...slots, h, carries, fresh, lambdas])].sort((a, b) => a - b);
  const moved = (at: number) => at + GUARD * starts.indexOf(at);
  const size = bytes + GUARD * starts.length + GUARD * ++serial;
  scratches.set(
    size,
    starts.slice(1).map((at) => moved(at) - GUARD),
  );
  return {
    ...{ slots: slots.map(moved), h: moved(h), carries: moved(carries), fresh: moved(fresh) },
    ...{ lambdas: moved(lambdas), bytes: size },
  };
}

export function checkedKernels<Module extends { instantiate: (...args: never[]) => Promise<Kernels> }>(
  module: Module,
) {
  const instantiate = async (...args: never[]): Promise<Kernels> => {
    const kernels = await module.instantiate(...args);
    const wrapped = Object.entries(kernels).map(([name, kernel]) => [
      name,
      (...args: number[]) => {
        (kernel as (...args: number[]) => void)(...args);
        checkedCalls++;
        const text = damage();
        if (text) throw new Error(`${name}: ${text}`);
      },
    ]);
    return Object.fromEntries(wrapped);
  };
  return { ...module, instantiate };
}
