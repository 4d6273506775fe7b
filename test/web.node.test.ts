/** The page, as built, in Chromium: every part clicked through. Screenshots stay in test/__screenshots__, for people to look at. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, extname } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fromLruParams, writeSafetensors } from "../src/index.js";
import { findBrowser } from "../tools/browser.mjs";
import { hardParams } from "./support/problems.js";

const path = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const found = findBrowser();

describe.skipIf(!found.browser)(`the page${found.browser ? "" : ` (skipped: ${found.reason})`}`, () => {
  let browser: Browser;
  let served: ChildProcess;
  let isolated: string;
  beforeAll(async () => {
    await promisify(execFile)(process.execPath, [path("examples/web/build.mjs")]);
    [browser, { served, url: isolated }] = await Promise.all([chromium.launch(found.browser), serve()]);
  });
  afterAll(async () => {
    await browser?.close();
    served?.kill("SIGINT");
    if (served) expect(await once(served, "exit")).toEqual([0, null]);
  });

  /** A page that fails the test if it logs an error. */
  async function open(url: string, options: BrowserContextOptions, prepare = () => {}) {
    const context = await browser.newContext({ locale: "en-US", ...options });
    const page = await context.newPage();
    const errors: string[] = [];
    page.on("pageerror", ({ message }) => errors.push(message));
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") errors.push(message.text());
    });
    await page.addInitScript(prepare);
    await page.goto(url);
    await page.waitForSelector("html[data-ready]", { state: "attached" });
    const close = async () => {
      expect(errors).toEqual([]);
      await context.close();
    };
    return { page, close };
  }

  const text = (page: Page, id: string) => page.locator(`#${id}`).innerText();
  const until = (page: Page, id: string, says: RegExp) =>
    expect.poll(() => text(page, id), { timeout: 20_000 }).toMatch(says);
  const shoot = (page: Page, name: string) =>
    page.screenshot({ path: path(`test/__screenshots__/web-${name}.png`), fullPage: true });

  test("starts where the browser's language is none that Intl knows", async () => {
    const { close } = await open(isolated, {}, () =>
      Object.defineProperty(navigator, "language", { value: "en-US@posix", configurable: true }),
    );
    await close();
  });

  test.each([1280, 390])("nothing jumps while it starts, in %i pixels", async (width) => {
    const viewport = { width, height: 900 };
    const { page, close } = await open(isolated, { viewport }, () => {
      Object.assign(globalThis, { shifts: 0 });
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries())
          (globalThis as unknown as { shifts: number }).shifts += (
            entry as unknown as { value: number }
          ).value;
      }).observe({ type: "layout-shift", buffered: true });
    });
    await until(page, "position", /Pixel \d+ of 784/);
    // 0.1 is what is called good; the paragraph on top that grew by a line made it 0.21.
    expect(await page.evaluate("shifts")).toBeLessThan(0.01);
    await close();
  });

  test("reads digits that are picked, drawn by pointer, and drawn by keyboard", async () => {
    const { page, close } = await open(isolated, {
      viewport: { width: 1280, height: 900 },
      colorScheme: "dark",
    });
    await until(page, "position", /Pixel \d+ of 784/);
    const below = () => page.locator("#why").evaluate((why) => why.getBoundingClientRect().top + scrollY);
    const start = await below();
    await page.click("#play"); // pause
    const paused = await text(page, "position");
    await page.waitForTimeout(100);
    expect(await text(page, "position")).toBe(paused);
    await page.click("#whole");
    await until(page, "timing", /784 steps: .* to the bit/);
    expect(await text(page, "verdict")).toMatch(/It reads \d, .* % sure\. Right\./);
    expect(await below(), "nothing below moves").toBe(start);
    const shares = await page.locator("#bars .share").allInnerTexts();
    expect(shares.reduce((sum, share) => sum + Number.parseFloat(share), 0)).toBeCloseTo(100, 0);

    await page.locator("#picks button").nth(2).click();
    await page.click("#whole");
    await until(page, "verdict", /It reads 3/);
    await page.click("#more");
    await page.getByRole("button", { name: "Layer 3", exact: true }).click();

    await page.click("#clear");
    const box = (await page.locator("#pad").boundingBox()) as { x: number; y: number; width: number };
    const at = (x: number, y: number) => [box.x + x * box.width, box.y + y * box.width] as const;
    await page.mouse.move(...at(0.5, 0.15));
    await page.mouse.down();
    await page.mouse.move(...at(0.5, 0.85), { steps: 6 });
    await page.mouse.up();
    await page.click("#whole");
    await until(page, "verdict", /It reads 1/);

    await page.getByRole("application", { name: /^Drawing pad\. Arrow keys/ }).focus();
    await page.keyboard.press("Delete");
    for (let i = 0; i < 12; i++) await page.keyboard.press("ArrowUp");
    await page.keyboard.press(" ");
    for (let i = 0; i < 26; i++) await page.keyboard.press("ArrowDown");
    await page.keyboard.press(" ");
    await page.click("#whole");
    await until(page, "verdict", /It reads 1/);
    await shoot(page, "draw");
    await close();
  });

  test("says why, measures, and tests itself", async () => {
    const { page, close } = await open(isolated, {
      viewport: { width: 1280, height: 900 },
      colorScheme: "light",
    });
    expect(await text(page, "found")).toMatch(/Cross-origin isolation\nyes/);
    await page.focus("#size-seqLen");
    await page.keyboard.press("Home");
    await until(page, "picked", /auto picks wasm on the calling thread/);
    expect(await text(page, "picked")).toContain("[1, 1, 64]");
    await page.click("#measure");
    await until(page, "measure-note", /fastest of several/);
    const costs = await text(page, "costs");
    expect(costs).toMatch(/WASM, this thread · picked\n[\d.]+ [µm]s\n[\d.]+ [µm]s/);
    await page.click("#test");
    await until(page, "test-note", /^All \d+ right/);
    const verdicts = await page.locator("#test-table td:last-child").allInnerTexts();
    expect(verdicts.length).toBeGreaterThan(8);
    expect(new Set(verdicts)).toEqual(new Set(["right"]));
    await shoot(page, "why");
    await close();
  });

  test("looks inside the digits network, and inside the visitor's own", async () => {
    const { page, close } = await open(isolated, {
      viewport: { width: 1280, height: 900 },
      colorScheme: "light",
    });
    await until(page, "state", /State \d+ of 64: \|λ\| = 0\.99/);
    const before = await text(page, "state");
    await page.focus("#plane svg");
    await page.keyboard.press("ArrowRight");
    expect(await text(page, "state")).not.toBe(before);
    await page.locator("#disc-layer button").nth(2).click();
    await until(page, "state", /half forgotten after 556 tokens/);
    await page.uncheck("#stretch");
    await page.locator("summary").click();
    expect(await text(page, "stages")).toContain("logSoftmax");

    const give = (name: string, buffer: Uint8Array) =>
      page.setInputFiles("#file", {
        name,
        mimeType: "application/octet-stream",
        buffer: Buffer.from(buffer),
      });
    const spec = { linrec: '{"architecture": "lrnnx/lru"}' };
    await give("mine.safetensors", writeSafetensors(fromLruParams(hardParams(5, 7, 3)), spec));
    await until(page, "model-note", /^mine\.safetensors: lrnnx\/lru, 5 → 5 features, 1 LRU layer\.$/);
    await until(page, "state", /State \d of 7/);
    await page.fill("#to", "4");
    await page.selectOption("#signal", "sine");
    await page.fill("#tokens", "500");
    await page.click("#run");
    await until(page, "run-note", /x \[500, 5\] → y \[500, 5\] in /);
    await shoot(page, "disc");

    await give("broken.safetensors", Uint8Array.of(1, 2, 3));
    await until(page, "model-note", /^broken\.safetensors: .*\d.* Still open: mine\.safetensors\.$/);
    expect(await text(page, "state")).toMatch(/of 7/);
    await close();
  });

  test("works on a phone without isolation and without WebGPU", async () => {
    const { url, server } = await plainServer();
    const options = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true };
    const { page, close } = await open(url, options, () =>
      Object.defineProperty(Navigator.prototype, "gpu", { value: undefined }),
    );
    await until(page, "found", /isolation\nno[\s\S]*WebGPU\nno/);
    await page.tap("#whole");
    await until(page, "timing", /to the bit/);
    await until(page, "state", /of 64/);
    const [wide, window_] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    expect(wide).toBeLessThanOrEqual(window_ as number);
    await shoot(page, "phone");
    await close();
    server.close();
  });

  test.each(["light", "dark"] as const)("has contrast in the %s", async (colorScheme) => {
    const { page, close } = await open(isolated, { colorScheme });
    const pairs = [
      ...["--ink", "--muted", "--accent"].flatMap((ink) => [`${ink} --paper`, `${ink} --surface`]),
      ...["--accent-ink --accent", "--wrong --surface"],
    ];
    const ratios = await page.evaluate((list) => {
      const style = getComputedStyle(document.documentElement);
      const luminance = (name: string) => {
        const hex = Number.parseInt(style.getPropertyValue(name).trim().slice(1), 16);
        const linear = (shift: number) => {
          const value = ((hex >> shift) & 255) / 255;
          return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        };
        return 0.2126 * linear(16) + 0.7152 * linear(8) + 0.0722 * linear(0);
      };
      return list.map((pair) => {
        const [a, b] = pair.split(" ").map((name) => luminance(name) + 0.05) as [number, number];
        return Math.max(a, b) / Math.min(a, b);
      });
    }, pairs);
    for (const [i, ratio] of ratios.entries()) expect(ratio, pairs[i] as string).toBeGreaterThanOrEqual(4.5); // WCAG AA
    await close();
  });

  test("linrec serve gives what the page needs and nothing else", async () => {
    const page = await fetch(isolated);
    expect(page.headers.get("cross-origin-opener-policy")).toBe("same-origin");
    expect(page.headers.get("cross-origin-embedder-policy")).toBe("require-corp");
    expect(await page.text()).toContain("<title>linrec");
    for (const hidden of ["../cli.js", "%2e%2e/cli.js", "..%2fcli.js", "nothing", "/", "%"])
      expect((await fetch(isolated + hidden)).status, hidden).toBe(404);
  });
});

/** `linrec serve`, on whatever port is free from there on. */
function serve(): Promise<{ served: ChildProcess; url: string }> {
  const served = spawn(process.execPath, [path("dist/cli.js"), "serve", "--port", "18300"]);
  return new Promise((resolve, reject) => {
    let stderr = "";
    served.stderr.on("data", (data) => {
      stderr += data;
    });
    served.stdout.once("data", (line) => resolve({ served, url: String(line).split(" ")[0] as string }));
    served.once("exit", () => reject(new Error(stderr)));
  });
}

/** Static files as any host serves them: no headers for isolation. */
async function plainServer(): Promise<{ server: Server; url: string }> {
  const types: Record<string, string> = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
  };
  const server = createServer(({ url = "/" }, response) => {
    const name = url === "/" ? "index.html" : basename(url);
    response.writeHead(200, { "Content-Type": types[extname(name)] ?? "application/octet-stream" });
    response.end(readFileSync(path(`dist/web/${name}`)));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
}
