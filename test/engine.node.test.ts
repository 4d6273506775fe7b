/** What a fresh process shows: that importing the package does nothing, and what becomes of the engine's memory. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import vm from "node:vm";
import { beforeAll, describe, expect, test } from "vitest";

const dist = new URL("../dist/index.js", import.meta.url);
const checkpoint = new URL("../examples/data/smnist.safetensors", import.meta.url);
beforeAll(() => expect(existsSync(dist), "dist/index.js is missing: npm run build").toBe(true));

/** Runs a module in a process of its own; returns what it prints. */
function run(source: string, ...flags: string[]): string {
  const args = [...flags, "--experimental-vm-modules", "--no-warnings", "--input-type=module", "-e", source];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 });
  expect(status, stderr).toBe(0);
  return stdout.trim();
}

describe("importing the package", () => {
  test("needs nothing but the language: no DOM, no Node, no WebAssembly, no timers", () => {
    // A context of its own has JavaScript and nothing else; what is looked at on import, is not there.
    const source = `
      import vm from "node:vm";
      import { readFileSync } from "node:fs";
      const context = vm.createContext({});
      vm.runInContext("delete globalThis.WebAssembly; delete globalThis.SharedArrayBuffer;", context);
      const code = readFileSync(new URL(${JSON.stringify(dist.href)}), "utf8");
      const module = new vm.SourceTextModule(code, { context });
      await module.link((name) => { throw new Error("it imports " + name); });
      await module.evaluate();
      console.log(Object.keys(module.namespace).sort().join());`;
    expect(run(source).split(",")).toEqual(
      expect.arrayContaining(["LinrecError", "createEngine", "initLru"]),
    );
    expect(typeof vm.createContext).toBe("function");
  });

  test("does no work: it changes no global, starts nothing, keeps no process alive", () => {
    const source = `
      const before = Reflect.ownKeys(globalThis).length;
      const started = performance.now();
      await import(${JSON.stringify(dist.href)});
      const took = performance.now() - started;
      const active = process.getActiveResourcesInfo().filter((name) => !/Pipe|TTY|FS|CloseReq/.test(name));
      console.log(JSON.stringify([Reflect.ownKeys(globalThis).length - before, active, took]));`;
    const [globals, active, took] = JSON.parse(run(source)) as [number, string[], number];
    expect(globals).toBe(0);
    expect(active).toEqual([]);
    expect(took).toBeLessThan(500);
  });

  test("the file says nothing of the machine that built it", () => {
    expect(readFileSync(dist, "utf8")).not.toMatch(/file:\/\/\/|\/home\/|\/root\/|[A-Z]:\\/);
  });
});

describe("starting", () => {
  test("the event loop waits for the kernels while they are compiled: Node blocks in it otherwise, and may never wake", () => {
    // One with kernels of the package, a model that loads more of them, and one with kernels of the user's own.
    const source = `
      import { readFileSync } from "node:fs";
      const seen = [];
      for (const name of ["compile", "instantiate"]) {
        const original = WebAssembly[name];
        WebAssembly[name] = (...given) => {
          queueMicrotask(() => seen.push(process.getActiveResourcesInfo().includes("Timeout")));
          return original(...given);
        };
      }
      const { createEngine } = await import(${JSON.stringify(dist.href)});
      for (const wasm of [undefined, readFileSync(new URL("kernels.wasm", ${JSON.stringify(dist.href)}))]) {
        const engine = await createEngine({ backend: "wasm", threads: 0, wasm });
        await engine.model(readFileSync(new URL(${JSON.stringify(checkpoint.href)})));
        await engine.dispose();
      }
      console.log(JSON.stringify([seen, process.getActiveResourcesInfo().includes("Timeout")]));`;
    const [seen, after] = JSON.parse(run(source)) as [boolean[], boolean];
    expect(seen.length).toBeGreaterThanOrEqual(7);
    expect(seen).not.toContain(false);
    expect(after).toBe(false);
  });
});

test("an audio worklet has no clock, no timers, no messages and no TextDecoder, and computes", () => {
  const source = `
    import vm from "node:vm";
    import { readFileSync } from "node:fs";
    const context = vm.createContext({});
    const file = new URL("linrec.min.js", ${JSON.stringify(dist.href)});
    const module = new vm.SourceTextModule(readFileSync(file, "utf8"), { context });
    await module.link((name) => { throw new Error("it imports " + name); });
    await module.evaluate();
    const { createEngine, initLru, writeModel } = module.namespace;
    for (const backend of ["wasm", "reference"]) {
      const engine = await createEngine({ backend, threads: 0 });
      const lru = await engine.lru(initLru({ dModel: 8, dState: 8 }));
      const { y } = await lru.forward(new (vm.runInContext("Float32Array", context))(8 * 100_000).fill(1));
      const [next] = lru.stepSync(y.slice(0, 8), lru.allocateInferenceCache());
      const model = await engine.model(writeModel(lru));
      const same = model.stepSync(y.slice(0, 8), model.allocateInferenceCache())[0] === next;
      console.log(lru.backend, y.every(Number.isFinite), Number.isFinite(next), lru.explain("forward").backend, same);
    }`;
  // The process has a timer: without one it would not wait for what only promises go on with.
  expect(run(`setTimeout(() => {}, 1e4).ref(); ${source} process.exit();`)).toBe(
    "wasm true true wasm true\nreference true true reference true",
  );
});

test("where import() is not allowed, as in Jest's CommonJS, there are threads all the same", () => {
  const source = `
    import vm from "node:vm";
    import { readFileSync } from "node:fs";
    const file = new URL("index.cjs", ${JSON.stringify(dist.href)});
    const context = vm.createContext({ process, URL, performance, setTimeout, clearTimeout, setImmediate });
    const module = { exports: {} };
    vm.runInContext("((module) => {" + readFileSync(file, "utf8") + "})", context)(module);
    const { createEngine, initLru } = module.exports;
    const engine = await createEngine({ backend: "wasm", threads: 2, onFallback: ({ reason }) => console.log(reason) });
    const lru = await engine.lru(initLru({ dModel: 8, dState: 8 }));
    const { y } = await lru.forward(new Float32Array(8 * 3000));
    console.log(y.length, engine.backends.wasm.threads);`;
  expect(run(source)).toBe("24000 2");
});

describe("memory", () => {
  test("what engine.allocate lent is not lent again while a part of it is in use", () => {
    const source = `
      import { createEngine } from ${JSON.stringify(dist.href)};
      const engine = await createEngine({ backend: "wasm", threads: 0 });
      const part = engine.allocate(1e6).subarray(10, 20).fill(3); // the whole is out of reach, the part is not
      for (let i = 0; i < 20; i++) {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 5));
        engine.allocate(1e6).fill(4);
      }
      console.log([...part].join());`;
    expect(run(source, "--expose-gc")).toBe(Array(10).fill(3).join());
  });

  test("what engine.free was given is used again", () => {
    const source = `
      import { createEngine } from ${JSON.stringify(dist.href)};
      const engine = await createEngine({ backend: "wasm", threads: 0 });
      for (let i = 0; i < 60; i++) {
        engine.free(engine.allocate(2 ** 24).fill(1)); // 64 MiB each: 60 of them are nearly all that WASM can have
      }
      const last = engine.allocate(1);
      console.log(last.buffer.byteLength < 2 ** 30);`;
    expect(run(source)).toBe("true");
  });

  test.each(["shared", "private"])(
    "layers that are disposed of leave nothing behind (%s memory)",
    (memory) => {
      // 8 MB of weights each: 40 layers would be 320 MB, in every worker.
      const source = `
      import { readFileSync } from "node:fs";
      const options = ${memory === "private" ? `{ wasm: readFileSync(new URL("kernels.wasm", ${JSON.stringify(dist.href)})) }` : "{}"};
      const { createEngine, initLru } = await import(${JSON.stringify(dist.href)});
      const engine = await createEngine({ backend: "wasm", threads: 2, ...options });
      const params = initLru({ dModel: 512, dState: 512 });
      const x = new Float32Array(512 * 96).fill(0.1);
      const round = async () => {
        const lru = await engine.lru(params);
        await lru.forward(x);
        lru.dispose();
      };
      const used = async () => {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 20));
        gc();
        return process.memoryUsage().rss / 2 ** 20;
      };
      for (let i = 0; i < 10; i++) await round(); // memory grows to what the work needs at a time
      const readings = []; // five layers apart; one alone is up to 90 MB above what stays
      while (readings.push(await used()) < 14) for (let i = 0; i < 5; i++) await round();
      // What stays, 40 layers later.
      console.log(Math.round(Math.min(...readings.slice(8)) - Math.min(...readings.slice(0, 6))));`;
      expect(Number(run(source, "--expose-gc"))).toBeLessThan(80); // MB
    },
  );
});
