/** What becomes of the engine in runtimes that this one only plays: without WASM, with little memory, with a page's workers. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { runInNewContext } from "node:vm";
import { Worker as NodeWorker } from "node:worker_threads";
import { afterEach, expect, test, vi } from "vitest";
import { createMemory } from "../src/cpu/instantiate.js";
import { kernelBytes } from "../src/cpu/kernels.js";
import { messageOf } from "../src/errors.js";
import { createEngine } from "../src/index.js";
import { parts } from "../src/parts.js";
import { threadCount } from "../src/runtime/environment.js";
import { expectSameBits } from "./support/bits.js";
import { errorOf, expectLinrecError } from "./support/misuse.js";
import { floats, hardParams } from "./support/problems.js";

const blocked = vi.hoisted(() => ({ names: new Set<string>() }));
vi.mock("../src/runtime/importLater.js", () => ({
  importLater: (name: string) =>
    blocked.names.has(name) ? Promise.reject(new Error(`no ${name}`)) : import(/* @vite-ignore */ name),
}));

afterEach(() => {
  blocked.names.clear();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const params = hardParams(4, 6, 1);
const x = floats(3000 * 4, 2);

async function expectedY(): Promise<Float32Array> {
  const engine = await createEngine({ backend: "wasm", simd: "baseline", threads: 0 });
  const { y } = await (await engine.lru(params)).forward(x);
  await engine.dispose();
  return y;
}

test("without WebAssembly the reference computes, and a demand for WASM says what is missing", async () => {
  vi.stubGlobal("WebAssembly", undefined);
  const error = await errorOf(() => createEngine({ backend: "wasm" }));
  expectLinrecError(error, "backend-unavailable", /no WebAssembly.*"reference", or a newer runtime\.$/);
  const engine = await createEngine({ backend: ["wasm", "reference"] });
  expect((await engine.lru(params)).backend).toBe("reference");
  await engine.dispose();
});

test('simd "auto" takes relaxed SIMD where it runs', async () => {
  vi.spyOn(WebAssembly, "validate").mockReturnValue(true);
  const compile = WebAssembly.compile.bind(WebAssembly);
  const given: BufferSource[] = [];
  vi.spyOn(WebAssembly, "compile").mockImplementation((bytes) => {
    given.push(bytes as BufferSource);
    return compile(kernelBytes("baseline", true)); // which this Node can run
  });
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  expect(engine.backends.wasm).toMatchObject({ available: true, simd: "relaxed" });
  expect(given).toEqual([kernelBytes("relaxed", true)]);
  await engine.dispose();
});

test("kernels that are given come from a file's address, too; one without a file says so", async () => {
  const folder = await mkdtemp(join(tmpdir(), "linrec-"));
  const url = pathToFileURL(join(folder, "kernels.wasm"));
  await writeFile(url, kernelBytes("baseline", false));
  const engine = await createEngine({ backend: "wasm", threads: 0, wasm: url });
  expectSameBits((await (await engine.lru(params)).forward(x)).y, await expectedY(), "y");
  await engine.dispose();
  await rm(folder, { recursive: true });
  const error = await errorOf(() => createEngine({ backend: "wasm", wasm: url }));
  expectLinrecError(error, "backend-unavailable", /kernels\.wasm could not be loaded.*ENOENT/);
});

test("a memory that may not grow as far as it might is taken as large as it may be", () => {
  const Memory = WebAssembly.Memory;
  const asked: number[] = [];
  const refusing = (most: number) =>
    vi.stubGlobal("WebAssembly", {
      Memory: class extends Memory {
        constructor(descriptor: WebAssembly.MemoryDescriptor) {
          asked.push(descriptor.maximum as number);
          if ((descriptor.maximum as number) > most) throw new RangeError("too much");
          super(descriptor);
        }
      },
    });
  refusing(16384);
  for (const shared of [true, false]) {
    const memory = createMemory(shared, 2);
    expect(memory.buffer.byteLength).toBe(2 * 65536);
    expect(memory.grow(100)).toBe(2);
  }
  expect(asked).toEqual([65536, 32768, 16384, 65536, 32768, 16384]);
  refusing(2000);
  asked.length = 0;
  expect(errorThrown(() => createMemory(true, 2048))).toMatchObject({
    ...{ code: "out-of-memory", message: expect.stringMatching(/131072 KiB.*too much/) },
    cause: expect.any(RangeError),
  });
  expect(asked).toEqual([65536, 32768, 16384, 8192, 4096, 2048]); // a smaller one has no room for what is asked
  refusing(100);
  asked.length = 0;
  expect(errorThrown(() => createMemory(false, 1))).toMatchObject({ code: "out-of-memory" });
  expect(asked.at(-1)).toBe(1024);
});

function errorThrown(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  return expect.fail("nothing was thrown");
}

test("where nothing says how many cores there are, `threads` must", async () => {
  vi.stubGlobal("navigator", undefined);
  blocked.names.add("node:os");
  expectLinrecError(
    await errorOf(() => threadCount("auto")),
    "invalid-argument",
    /how many cores.*`threads`/,
  );
  expect(await threadCount(3)).toBe(3);
});

test("a part for GPUs that does not load leaves the others, and says so", async () => {
  vi.spyOn(parts, "webgpu").mockRejectedValue(new Error("webgpu.js: 404"));
  const engine = await createEngine({ threads: 0, gpu: { requestAdapter: async () => null } });
  expect(engine.backends.webgpu).toEqual({ available: false, reason: "webgpu.js: 404" });
  expect((await engine.lru(params)).backend).toBe("wasm");
  await engine.dispose();
});

test("events are heard between turns also where there is no setImmediate, and no port stays open", async () => {
  vi.stubGlobal("setImmediate", undefined);
  const macrotask = await macrotaskOf();
  const before = process.getActiveResourcesInfo().filter((name) => name === "MessagePort").length;
  let heard = false;
  setTimeout(() => {
    heard = true;
  });
  for (let turn = 0; turn < 1000 && !heard; turn++) await macrotask();
  expect(heard).toBe(true);
  await vi.waitFor(() =>
    expect(process.getActiveResourcesInfo().filter((name) => name === "MessagePort").length).toBe(before),
  );
});

/** As it is where it is imported now. */
async function macrotaskOf() {
  vi.resetModules();
  return (await import("../src/runtime/macrotask.js")).macrotask;
}

test.each([["timers"], ["not even timers"]])(
  "with neither setImmediate nor messages, but %s",
  async (what) => {
    const { setTimeout } = globalThis;
    for (const name of ["setImmediate", "MessageChannel"]) vi.stubGlobal(name, undefined);
    if (what !== "timers") vi.stubGlobal("setTimeout", undefined);
    const macrotask = await macrotaskOf();
    let heard = false;
    setTimeout(() => {
      heard = true;
    });
    for (let turn = 0; turn < 1000 && !heard; turn++) await macrotask();
    expect(heard).toBe(what === "timers");
  },
);

test("fake timers that come after the library do not hold its forwards up", { timeout: 10_000 }, async () => {
  const macrotask = await macrotaskOf();
  vi.stubGlobal("setImmediate", () => 0);
  await macrotask();
});

test("whatever is thrown has a text", () => {
  const foreign = runInNewContext('new TypeError("of another realm")');
  const texts = [new Error("broken"), foreign, "broken", { a: 1 }, null, undefined, 7].map(messageOf);
  expect(texts).toEqual([
    ...["broken", "of another realm", "broken", "[object Object]"],
    ...["[object Null]", "undefined", "7"],
  ]);
  const refuse = () => {
    throw new Error("inner");
  };
  const silent = [
    Object.defineProperty(new Error(), "message", { get: refuse }),
    Object.defineProperty(new Error(), "message", { value: { toString: refuse } }),
    Object.defineProperty({}, Symbol.toStringTag, { get: refuse }),
    Object.assign(() => {}, { toString: refuse }),
    new Proxy({}, { get: refuse, getPrototypeOf: refuse }),
  ];
  expect(silent.map(messageOf)).toEqual(silent.map(() => "what has no text"));
});

/** A page's Worker: Node's, by the page's interface. */
class PageWorker extends EventTarget {
  static readonly made: PageWorker[] = [];
  readonly url: string;
  readonly options: unknown;
  terminated = false;
  #node: NodeWorker | undefined;

  constructor(url: string | URL, options: unknown) {
    super();
    this.url = String(url);
    this.options = options;
    PageWorker.made.push(this);
  }

  begin(source: string): void {
    const port = `import { parentPort } from "node:worker_threads";
      globalThis.postMessage = (...given) => parentPort.postMessage(...given);
      globalThis.addEventListener = (type, listener) => parentPort.on(type, (data) => listener({ data }));`;
    const text = `data:text/javascript,${encodeURIComponent(`${port}\n${source}`)}`;
    this.#node = new NodeWorker(new URL(text), { execArgv: [] });
    this.#node.on("message", (data) => this.dispatchEvent(Object.assign(new Event("message"), { data })));
    for (const given of this.#waiting) this.#node.postMessage(...given);
  }

  readonly #waiting: [unknown, never][] = [];
  postMessage(...given: [unknown, never]): void {
    if (this.#node) this.#node.postMessage(...given);
    else this.#waiting.push(given);
  }

  terminate(): void {
    this.terminated = true;
    this.#node?.terminate();
  }
}

test.each([
  ["https://example.test", "module"],
  ["null", "classic"], // it may start no blob: as a module
  [undefined, "module"], // Deno, which has no classic ones
])(
  "workers of a page of origin %s compute, and their address is given back when they end",
  async (origin, type) => {
    PageWorker.made.length = 0;
    vi.stubGlobal("origin", origin);
    vi.stubGlobal("Worker", PageWorker);
    const sources: Blob[] = [];
    vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => {
      sources.push(blob as Blob);
      return `blob:${sources.length}`;
    });
    const revoked = vi.spyOn(URL, "revokeObjectURL").mockImplementation(() => {});
    const engine = await createEngine({ backend: "wasm", simd: "baseline", threads: 2 });
    const lru = await engine.lru(params);
    const forward = lru.forward(x);
    await vi.waitFor(() => expect(PageWorker.made).toHaveLength(2));
    for (const [i, worker] of PageWorker.made.entries()) {
      expect([worker.url, worker.options]).toEqual([`blob:${i + 1}`, { type, name: "linrec" }]);
      expect(sources[i]?.type).toBe("text/javascript");
      worker.begin(await (sources[i] as Blob).text());
    }
    expectSameBits((await forward).y, await expectedY(), "y");
    expect(revoked).not.toHaveBeenCalled();
    await engine.dispose();
    await vi.waitFor(() => expect(PageWorker.made.every(({ terminated }) => terminated)).toBe(true));
    expect(revoked.mock.calls.flat().sort()).toEqual(["blob:1", "blob:2"]);
  },
);

test.each([
  ["error", { message: "Refused by the policy" }, /Refused by the policy.*calling thread/],
  ["error", {}, /script could not be loaded.*calling thread/],
  ["messageerror", {}, /could not be cloned.*calling thread/],
])("a page's worker that does not start (%s %o): the calling thread computes", async (type, given, says) => {
  PageWorker.made.length = 0;
  vi.stubGlobal("Worker", PageWorker);
  const revoked = vi.spyOn(URL, "revokeObjectURL");
  const told: string[] = [];
  const engine = await createEngine({
    ...{ backend: "wasm", simd: "baseline", threads: 2, workerUrl: "https://example.test/worker.js" },
    onFallback: ({ reason }) => told.push(reason),
  });
  const lru = await engine.lru(params);
  const forward = lru.forward(x);
  await vi.waitFor(() => expect(PageWorker.made).toHaveLength(2));
  const event = Object.assign(new Event(type, { cancelable: true }), given);
  PageWorker.made[1]?.dispatchEvent(event);
  expectSameBits((await forward).y, await expectedY(), "y");
  expect(told).toEqual([expect.stringMatching(says)]);
  expect(event.defaultPrevented).toBe(type === "error"); // it is told: not in the page's console as well
  expect(PageWorker.made.every(({ terminated, url }) => terminated && url.endsWith("worker.js"))).toBe(true);
  expect(revoked).not.toHaveBeenCalled(); // the address is the page's own
  await engine.dispose();
});
