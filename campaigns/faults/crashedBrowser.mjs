// A browser whose GPU process ends in the middle of a forward, once on each GPU that the engine opens.
import { fileURLToPath } from "node:url";
import { chromium } from "playwright";
import { findBrowser } from "../../tools/browser.mjs";
import { serve } from "../../tools/serve.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** What test/pages/crash.js shows; `reason` where there is no browser, or none with WebGPU. */
export async function crashBrowser() {
  const { browser: found, reason } = findBrowser();
  if (!found) return { reason };
  const site = await serve(root);
  const browser = await chromium.launch(found);
  try {
    const session = await browser.newBrowserCDPSession();
    const page = await browser.newPage();
    await page.exposeFunction("crash", () => session.send("Browser.crashGpuProcess").catch(() => {}));
    await page.goto(`${site.url}test/pages/crash.html`);
    return JSON.parse(await page.locator("body", { hasText: "{" }).textContent({ timeout: 120_000 }));
  } finally {
    await browser.close();
    site.close();
  }
}
