// @ts-check
// Browsers that open the pages of test/pages: Chromium by Playwright, as everywhere; Firefox and WebKitGTK as Debian packages them, by
// the WebDriver that each speaks: the new one (BiDi, over a socket), and the classic one, by a server of its own.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright";
import { WebSocket } from "ws";
import { findBrowser } from "./browser.mjs";

/**
 * @typedef {object} Driven
 * @property {string} version
 * @property {(url: string) => Promise<string>} show opens a page and gives its text once it starts with a brace
 * @property {() => void | Promise<void>} close
 */

/** What a page may take: the golden cases, on a busy machine. */
const DEADLINE_MS = 120_000;
const script = "document.body?.textContent.trim() ?? ''";

/** @type {Record<string, { missing: () => string | undefined, start: () => Promise<Driven> }>} */
export const browsers = {
  chromium: {
    missing: () => findBrowser().reason,
    start: startChromium,
  },
  firefox: {
    missing: () => (firefox() ? undefined : "no Firefox: `apt-get install firefox-esr`"),
    start: startFirefox,
  },
  webkit: {
    missing: () =>
      [
        find("WebKitWebDriver") ? "" : "no WebKitWebDriver: `apt-get install webkit2gtk-driver`",
        miniBrowser() ? "" : "no MiniBrowser of WebKitGTK: `apt-get install libwebkit2gtk-4.1-0`",
        process.env["DISPLAY"] || find("Xvfb") ? "" : "no display, and no Xvfb: `apt-get install xvfb`",
      ]
        .filter(Boolean)
        .join("; ") || undefined,
    start: startWebkit,
  },
};

/** @param {string} name @returns {string | undefined} */
const find = (name) =>
  (process.env["PATH"] ?? "")
    .split(":")
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));

const firefox = () => find("firefox-esr") ?? find("firefox");

function miniBrowser() {
  const roots = ["/usr/lib", "/usr/libexec"].filter((root) => existsSync(root));
  const folders = roots.flatMap((root) => [root, ...readdirSync(root).map((name) => join(root, name))]);
  return folders
    .flatMap((folder) =>
      ["webkit2gtk-4.1", "webkit2gtk-4.0", "webkitgtk-6.0"].map((name) => join(folder, name, "MiniBrowser")),
    )
    .find((path) => existsSync(path));
}

/** @returns {Promise<Driven>} */
async function startChromium() {
  const browser = await chromium.launch(findBrowser().browser);
  return {
    version: `Chromium ${browser.version()}`,
    async show(url) {
      const page = await browser.newPage();
      await page.goto(url);
      const text = await page.locator("body", { hasText: "{" }).textContent({ timeout: DEADLINE_MS });
      await page.close();
      return text ?? "";
    },
    close: () => browser.close(),
  };
}

/** @returns {Promise<Driven>} */
async function startFirefox() {
  const profile = mkdtempSync(join(tmpdir(), "linrec-firefox-"));
  const args = ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"];
  const child = startGroup(firefox() ?? "", args, { stdio: ["ignore", "ignore", "pipe"] });
  const address = await said(child, /WebDriver BiDi listening on (ws:\S+)/);
  const socket = new WebSocket(`${address}/session`, { perMessageDeflate: false });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  /** @type {Map<number, (answer: any) => void>} */
  const waiting = new Map();
  socket.on("message", (data) => {
    const answer = JSON.parse(String(data));
    waiting.get(answer.id)?.(answer);
  });
  let last = 0;
  /** @param {string} method @param {object} params @returns {Promise<any>} */
  const send = async (method, params) => {
    const id = ++last;
    const answered = new Promise((resolve) => waiting.set(id, resolve));
    socket.send(JSON.stringify({ id, method, params }));
    const { result, message } = /** @type {any} */ (await answered);
    if (!result) throw new Error(`${method}: ${message}`);
    return result;
  };
  const { capabilities } = await send("session.new", { capabilities: {} });
  return {
    version: `${capabilities.browserName} ${capabilities.browserVersion}`,
    async show(url) {
      const { context } = await send("browsingContext.create", { type: "tab" });
      await send("browsingContext.navigate", { context, url, wait: "complete" });
      const text = await untilShown(async () => {
        const params = { expression: script, target: { context }, awaitPromise: false };
        return (await send("script.evaluate", params)).result?.value;
      });
      await send("browsingContext.close", { context });
      return text;
    },
    async close() {
      socket.close();
      await end(child);
      rmSync(profile, { recursive: true, force: true });
    },
  };
}

/** @returns {Promise<Driven>} */
async function startWebkit() {
  /** @type {import("node:child_process").ChildProcess[]} */
  const children = [];
  let display = process.env["DISPLAY"];
  if (!display) {
    const args = ["-displayfd", "2", "-screen", "0", "1024x768x24", "-nolisten", "tcp"];
    const screen = startGroup("Xvfb", args, { stdio: ["ignore", "ignore", "pipe"] });
    children.push(screen);
    display = `:${await said(screen, /^(\d+)$/m)}`;
  }
  const port = 20_000 + (process.pid % 20_000);
  const env = { ...process.env, DISPLAY: display };
  children.push(startGroup("WebKitWebDriver", [`--port=${port}`], { env, stdio: "ignore" }));
  /** @param {string} method @param {string} path @param {object} [body] @returns {Promise<any>} */
  const call = async (method, path, body) => {
    const init = { method, body: body ? JSON.stringify(body) : null };
    const { value } = await (await fetch(`http://127.0.0.1:${port}${path}`, init)).json();
    if (value?.error) throw new Error(`${path}: ${value.message || value.error}`);
    return value;
  };
  for (let tries = 0; tries < 100; tries++) {
    if (await call("GET", "/status").catch(() => undefined)) break;
    await pause();
  }
  const wanted = { "webkitgtk:browserOptions": { binary: miniBrowser(), args: ["--automation"] } };
  const { sessionId, capabilities } = await call("POST", "/session", {
    capabilities: { alwaysMatch: wanted },
  });
  const session = `/session/${sessionId}`;
  return {
    version: `WebKitGTK ${capabilities.browserVersion}`,
    async show(url) {
      await call("POST", `${session}/url`, { url });
      return untilShown(() =>
        call("POST", `${session}/execute/sync`, { script: `return ${script}`, args: [] }),
      );
    },
    async close() {
      await call("DELETE", session).catch(() => {});
      for (const child of children.reverse()) await end(child);
    },
  };
}

/** @param {() => Promise<string | undefined>} read */
async function untilShown(read) {
  for (const start = Date.now(); Date.now() - start < DEADLINE_MS; await pause()) {
    const text = await read();
    if (text?.startsWith("{")) return text;
  }
  throw new Error(`nothing was shown within ${DEADLINE_MS / 1000} s`);
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 100));

/**
 * Starts a process as the first of a group, which what it starts belongs to: {@link end} reaches them all, and so does the end of
 * this process.
 * @param {string} command
 * @param {string[]} args
 * @param {import("node:child_process").SpawnOptions} options
 */
function startGroup(command, args, options) {
  const child = spawn(command, args, { ...options, detached: true });
  process.once("exit", () => signal(child, "SIGKILL"));
  return child;
}

/**
 * Ends a process that {@link startGroup} started, and what it has started. Resolves when they are gone.
 * @param {import("node:child_process").ChildProcess} child
 */
async function end(child) {
  for (let tries = 0; tries < 100 && signal(child, tries < 50 ? "SIGTERM" : "SIGKILL"); tries++)
    await pause();
}

/**
 * Whether there was anyone to hear it.
 * @param {import("node:child_process").ChildProcess} child
 * @param {NodeJS.Signals} name
 */
function signal({ pid }, name) {
  try {
    return pid !== undefined && process.kill(-pid, name);
  } catch {
    return false;
  }
}

/**
 * What a process says on its standard error.
 * @param {import("node:child_process").ChildProcess} child
 * @param {RegExp} pattern
 * @returns {Promise<string>}
 */
function said(child, pattern) {
  let output = "";
  return new Promise((resolve, reject) => {
    child.stderr?.on("data", (text) => {
      output += text;
      const [, found] = pattern.exec(output) ?? [];
      if (found) resolve(found);
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`it ended with code ${code}\n${output}`)));
  });
}
