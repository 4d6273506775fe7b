// The built package on pages that may not do everything, in real browsers: the right numbers from the best that is left, and
// `engine.backends` says why it is not more. Chromium, or those that LINREC_BROWSERS names (`npm run test:browsers`).
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createEngine, type Engine, initLru } from "../src/index.js";
import { browsers, type Driven } from "../tools/drivers.mjs";
import { isolated, serve } from "../tools/serve.mjs";

/** What test/pages/page.js shows. */
interface Result {
  readonly y: readonly number[];
  readonly backend: string;
  readonly backends: Engine["backends"];
  readonly fallbacks: readonly string[];
  readonly crossOriginIsolated: boolean;
}

const root = fileURLToPath(new URL("..", import.meta.url));
const asked = process.env["LINREC_BROWSERS"];

const csp = (policy: string) => ({ "Content-Security-Policy": policy });
const noBlobWorkers = csp("script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'");
const noWasm = csp("script-src 'self'; worker-src 'self'");

let expected: Float32Array;
beforeAll(async () => {
  const engine = await createEngine({ backend: "reference" });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 8, seed: 7 }));
  expected = (await lru.forward(Float32Array.from({ length: 2000 }, (_, i) => Math.sin(i)))).y;
});

describe.each((asked ?? "chromium").split(","))("%s", (name) => {
  let driven: Driven | undefined;
  const { missing, start } = browsers[name] as (typeof browsers)[string];

  beforeAll(async () => {
    const reason = missing();
    if (reason && asked) throw new Error(reason);
    if (!reason) driven = await start();
  });
  beforeEach(({ skip }) => {
    if (!driven) skip(missing());
  });
  afterAll(() => driven?.close());

  async function show(page: string, headers: Record<string, string>, worker?: string) {
    const site = await serve(root, headers);
    try {
      const query = worker ? `?worker=${encodeURIComponent(site.url + worker)}` : "";
      const result = JSON.parse(await (driven as Driven).show(`${site.url}test/pages/${page}${query}`));
      expect(result).not.toHaveProperty("error");
      return result;
    } finally {
      site.close();
    }
  }

  test("a page of no origin, as a sandboxed frame or a file: has none: threads", async () => {
    const headers = { ...csp("sandbox allow-scripts"), "Access-Control-Allow-Origin": "*" };
    const { fallbacks, backends }: Result = await show("index.html", headers);
    expect([fallbacks, backends.wasm.threads]).toEqual([[], 2]);
  });

  describe.each([
    ["isolated", isolated],
    ["not isolated", {}],
  ] as const)("%s", (isolation, headers) => {
    /** A forward on two threads, if they can be had, in a page with these headers. */
    async function forward(policy: Record<string, string>, worker?: string): Promise<Result> {
      const result: Result = await show("index.html", { ...headers, ...policy }, worker);
      expect(result.crossOriginIsolated).toBe(isolation === "isolated");
      expect(result.y).toHaveLength(expected.length);
      const largest = Math.max(...expected.map(Math.abs));
      const off = Math.max(...expected.map((value, i) => Math.abs(value - (result.y[i] as number))));
      expect(off / largest).toBeLessThan(1e-6);
      return result;
    }

    function expectThreads({ backend, backends: { wasm }, fallbacks }: Result): void {
      expect([backend, fallbacks]).toEqual(["wasm", []]);
      expect(wasm).toMatchObject({ available: true, threads: 2 });
      if (wasm.sharedMemory)
        expect([isolation, wasm.reason]).toEqual(["isolated", expect.stringContaining("threads share")]);
      else
        expect(wasm.reason).toMatch(
          isolation === "isolated" ? /no SharedArrayBuffer/ : /not cross-origin isolated/,
        );
    }

    test("no policy: threads", async () => {
      const result = await forward({});
      expectThreads(result);
      if (name !== "webkit") expect(result.backends.wasm.sharedMemory).toBe(isolation === "isolated");
    });

    test("no blob: workers: the calling thread", async () => {
      const { backend, backends, fallbacks } = await forward(noBlobWorkers);
      expect(backend).toBe("wasm");
      expect(backends.wasm).toMatchObject({ available: true, threads: 0 });
      expect(backends.wasm.reason).toMatch(/worker-src blob:.*workerUrl/);
      expect(fallbacks.join()).toMatch(/worker-src blob:.*calling thread/);
    });

    test("no blob: workers, but workerUrl: threads", async () => {
      expectThreads(await forward(noBlobWorkers, "dist/worker.js"));
    });

    test("no WebAssembly: the reference", async () => {
      const { backend, backends, fallbacks } = await forward(noWasm);
      expect(backend).toBe("reference");
      expect(backends.wasm.available).toBe(false);
      expect(backends.wasm.reason).toMatch(/wasm-unsafe-eval/);
      expect(fallbacks).toEqual([backends.wasm.reason]);
    });

    test("the golden cases", async () => {
      const { passed, worst, failures, engines } = await show("golden.html", headers);
      expect(failures).toEqual([]);
      expect(passed).toBeGreaterThan(0);
      console.log(
        `${driven?.version}, ${isolation}: ${passed} right, the worst at ${worst} of its limit; ${engines[1]}`,
      );
    });
  });
});
