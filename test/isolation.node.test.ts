// What a page may not do, by its headers: the built package in a real browser gives the right numbers from the best that is
// left, and `engine.backends` says why it is not more.
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createEngine, type Engine, initLru } from "../src/index.js";
import { findBrowser } from "../tools/browser.mjs";
import { serve } from "../tools/serve.mjs";

interface Result {
  readonly y: readonly number[];
  readonly backend: string;
  readonly backends: Engine["backends"];
  readonly fallbacks: readonly string[];
  readonly crossOriginIsolated: boolean;
}

const root = fileURLToPath(new URL("..", import.meta.url));
const { browser: launch, reason: noBrowser } = findBrowser();

const isolated = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
const csp = (policy: string) => ({ "Content-Security-Policy": policy });

const policies = {
  "no policy": {},
  "no blob: workers": csp("script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'"),
  "no WebAssembly": csp("script-src 'self'; worker-src 'self'"),
};

let browser: Browser;
let expected: Float32Array;

beforeAll(async () => {
  if (launch) browser = await chromium.launch(launch);
  const engine = await createEngine({ backend: "reference" });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 8, seed: 7 }));
  expected = (await lru.forward(Float32Array.from({ length: 2000 }, (_, i) => Math.sin(i)))).y;
});
afterAll(() => browser?.close());

/** What a page with these headers makes of test/pages/page.js. */
async function visit(headers: Record<string, string>, workerUrl: string | undefined): Promise<Result> {
  const site = await serve(root, headers);
  const page = await browser.newPage();
  try {
    const query = workerUrl ? `?worker=${encodeURIComponent(site.url + workerUrl)}` : "";
    await page.goto(`${site.url}test/pages/index.html${query}`);
    return JSON.parse((await page.locator("body", { hasText: "{" }).textContent()) ?? "");
  } finally {
    await page.close();
    site.close();
  }
}

describe.each([
  ["isolated", isolated],
  ["not isolated", {}],
] as const)("%s", (name, isolation) => {
  const shares = name === "isolated";
  const visitWith = async (policy: keyof typeof policies, workerUrl?: string) => {
    const result = await visit({ ...isolation, ...policies[policy] }, workerUrl);
    expect(result).not.toHaveProperty("error");
    expect(result.crossOriginIsolated).toBe(shares);
    expect(result.y).toHaveLength(expected.length);
    const largest = Math.max(...expected.map(Math.abs));
    const off = Math.max(...expected.map((value, i) => Math.abs(value - (result.y[i] as number))));
    expect(off / largest).toBeLessThan(1e-6);
    return result;
  };

  test("no policy: threads", async ({ skip }) => {
    if (noBrowser) skip(noBrowser);
    const { backend, backends, fallbacks } = await visitWith("no policy");
    expect([backend, fallbacks]).toEqual(["wasm", []]);
    expect(backends.wasm).toMatchObject({ available: true, threads: 2, sharedMemory: shares });
    expect(backends.wasm.reason).toMatch(shares ? /threads share memory/ : /not cross-origin isolated/);
  });

  test("no blob: workers: the calling thread", async ({ skip }) => {
    if (noBrowser) skip(noBrowser);
    const { backend, backends, fallbacks } = await visitWith("no blob: workers");
    expect(backend).toBe("wasm");
    expect(backends.wasm).toMatchObject({ available: true, threads: 0 });
    expect(backends.wasm.reason).toMatch(/worker-src blob:.*workerUrl/);
    expect(fallbacks.join()).toMatch(/worker-src blob:.*calling thread/);
  });

  test("no blob: workers, but workerUrl: threads", async ({ skip }) => {
    if (noBrowser) skip(noBrowser);
    const { backend, backends, fallbacks } = await visitWith("no blob: workers", "dist/worker.js");
    expect([backend, fallbacks]).toEqual(["wasm", []]);
    expect(backends.wasm).toMatchObject({ available: true, threads: 2, sharedMemory: shares });
  });

  test("no WebAssembly: the reference", async ({ skip }) => {
    if (noBrowser) skip(noBrowser);
    const { backend, backends } = await visitWith("no WebAssembly");
    expect(backend).toBe("reference");
    expect(backends.wasm.available).toBe(false);
    expect(backends.wasm.reason).toMatch(/wasm-unsafe-eval/);
  });
});
