// @ts-check
// Installs the packed package into real clients, each in a folder of its own outside this repository, runs them and checks
// what they compute. `node test/clients/run.mjs [NAME...]` runs those alone. Installing needs the npm registry.
import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright";
import { createEngine, initLru } from "../../dist/index.js";
import { findBrowser } from "../../tools/browser.mjs";
import { serve } from "../../tools/serve.mjs";
import { follow } from "./steps.mjs";

/**
 * @typedef {object} Client
 * @property {string} name
 * @property {string} [folder] where it is not the name
 * @property {string[]} [build] commands
 * @property {string} [run] a command that prints the line
 * @property {string} [pages] the folder of the page that shows the line
 * @property {string} [page] its file, if it is not index.html
 * @property {string} [server] a command that serves the page at $PORT
 * @property {string} [ready] what the page has when it works, in place of the line
 * @property {string} [guide] a page of docs/ that is followed, and nothing else
 * @property {boolean} [ssr] whether the page that is served has the line in #server
 */

const project = fileURLToPath(new URL("../..", import.meta.url));

/** @type {Client[]} */
const clients = [
  { name: "node-esm", run: "node main.js" },
  { name: "node-cjs", run: "node main.cjs" },
  {
    name: "typescript",
    build: [
      "tsc",
      "tsc -p tsconfig.bundler.json",
      "node node_modules/typescript-5.2/bin/tsc -p tsconfig.bundler.json",
    ],
    run: "node main.js",
  },
  {
    name: "command",
    folder: "node-esm",
    server: "linrec serve --port $PORT --host 127.0.0.1",
    ready: "html[data-ready]",
  },
  { name: "bun", run: "bun main.js" },
  { name: "deno", run: "deno run --allow-all main.js" },
  { name: "html", pages: "." },
  { name: "standalone", folder: "html", pages: ".", page: "standalone.html" },
  { name: "worker", pages: "." },
  { name: "esbuild", build: ["esbuild main.js --bundle --minify --format=esm --outdir=dist"], pages: "." },
  {
    name: "no charset",
    folder: "esbuild",
    build: ["esbuild classic.js --bundle --minify --charset=utf8 --outdir=dist"],
    pages: ".",
    page: "classic.html",
  },
  { name: "webpack", build: ["webpack --mode production"], pages: "." },
  { name: "vite-dev", folder: "vite", server: "vite --port $PORT --strictPort --host 127.0.0.1" },
  { name: "vite-build", folder: "vite", build: ["vite build --logLevel warn"], pages: "dist" },
  { name: "vite-worker", build: ["vite build --logLevel warn"], pages: "dist" },
  { name: "next", build: ["next build"], server: "next start --port $PORT --hostname 127.0.0.1", ssr: true },
  { name: "first-steps", guide: "first-steps.md" },
];

const wanted = process.argv.slice(2);
const chosen = clients.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
const { browser: launch, reason: noBrowser } = findBrowser();
const expected = await expectedLine();
const root = mkdtempSync(join(tmpdir(), "linrec-clients-"));
const counts = { passed: 0, failed: 0, skipped: 0 };
try {
  pack();
  for (const client of chosen) await check(client);
} finally {
  rmSync(root, { recursive: true, force: true });
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;

/** @param {Client} client */
async function check(client) {
  const { name, folder = name, pages, page = "", server } = client;
  const start = performance.now();
  /** @param {keyof typeof counts} how @param {string} [why] */
  const report = (how, why = "") => {
    counts[how]++;
    console.log(
      `${how.padEnd(7)} ${name.padEnd(12)} ${Math.round((performance.now() - start) / 1000)} s ${why}`,
    );
  };
  if ((pages || server || client.guide) && !launch) return report("skipped", noBrowser);
  try {
    if (client.guide) {
      await followGuide(client.guide);
      return report("passed");
    }
    const home = install(folder);
    for (const command of client.build ?? []) execute(command, home);
    if (client.run) {
      checkLine(execute(client.run, home));
    } else {
      const site = server ? await startServer(server, home) : await serve(join(home, pages ?? "."));
      try {
        await checkPage(site.url + page, client);
      } finally {
        site.close();
      }
    }
    report("passed");
  } catch (error) {
    report("failed", error instanceof Error ? error.message : String(error));
  }
}

/** Packs this project as npm would publish it. `npm run test:clients` has built it. */
function pack() {
  execute(`npm pack --silent --ignore-scripts --pack-destination ${root}`, project);
  const [tarball = ""] = readdirSync(root);
  cpSync(join(root, tarball), join(root, "linrec.tgz"));
  cpSync(join(project, "test/clients/forward.mjs"), join(root, "forward.mjs"));
}

/** @param {string} folder */
function install(folder) {
  const home = join(root, folder);
  if (existsSync(home)) return home;
  cpSync(join(project, "test/clients", folder), home, { recursive: true });
  cpSync(join(root, "forward.mjs"), join(home, "forward.mjs"));
  execute("npm install --silent --no-audit --no-fund --no-package-lock", home);
  return home;
}

/** @param {string} home */
function environment(home) {
  return {
    ...process.env,
    PATH: `${join(home, "node_modules/.bin")}:${process.env["PATH"]}`,
    NODE_ENV: undefined, // each tool has its own idea of it
    npm_config_loglevel: undefined, // what npm prints is compared, in `npm run --silent` too
    NEXT_TELEMETRY_DISABLED: "1",
    DENO_NO_UPDATE_CHECK: "1",
  };
}

/**
 * @param {string} command
 * @param {string} home
 */
function execute(command, home) {
  try {
    const options = { cwd: home, env: environment(home), timeout: 300_000 };
    return execFileSync("sh", ["-c", command], {
      ...options,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
  } catch (error) {
    const { message, stdout, stderr } = /** @type {any} */ (error);
    throw new Error([message, stdout, stderr].filter(Boolean).join("\n"));
  }
}

/**
 * @param {string} command
 * @param {string} home
 */
async function startServer(command, home) {
  const port = await freePort();
  const child = spawn("sh", ["-c", `exec ${command}`], {
    cwd: home,
    env: { ...environment(home), PORT: String(port) },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  const url = `http://127.0.0.1:${port}/`;
  const close = () => child.kill();
  for (let tries = 0; tries < 300; tries++) {
    if (child.exitCode !== null) break;
    if (
      await fetch(url).then(
        ({ ok }) => ok,
        () => false,
      )
    )
      return { url, close };
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  close();
  throw new Error(`\`${command}\` does not serve ${url}\n${output}`);
}

/** @returns {Promise<number>} */
async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** @param {string} name */
async function followGuide(name) {
  const home = join(root, name);
  mkdirSync(home);
  const read = (/** @type {string} */ url) =>
    withPage(url, async (page) => {
      await page.waitForFunction(() => !document.body.textContent?.includes("…"), null, { timeout: 60_000 });
      return page.innerText("body");
    });
  const hands = { execute, read, env: environment(home) };
  const guide = readFileSync(join(project, "docs", name), "utf8");
  await follow(guide, home, join(root, "linrec.tgz"), hands);
}

/**
 * @param {string} url
 * @param {Client} client
 */
async function checkPage(url, { ssr, ready }) {
  if (ssr) {
    const html = await (await fetch(url)).text();
    const [, line = ""] = /<pre id="server">(.*?)<\/pre>/s.exec(html) ?? [];
    checkLine(line.replaceAll("&quot;", '"'));
  }
  if (ready)
    return withPage(url, (page) => page.waitForSelector(ready, { state: "attached", timeout: 60_000 }));
  const line = await withPage(url, async (page) => {
    const filled = page.waitForFunction(() => document.getElementById("client")?.textContent, null, {
      timeout: 60_000,
    });
    return filled.then(
      (handle) => handle.jsonValue(),
      () => "",
    );
  });
  checkLine(line ?? "");
}

/**
 * What `use` makes of a page; an error if the page logged one.
 * @template T
 * @param {string} url
 * @param {(page: import("playwright").Page) => Promise<T>} use
 */
async function withPage(url, use) {
  const browser = await chromium.launch(launch);
  try {
    const page = await browser.newPage();
    /** @type {string[]} */
    const problems = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") problems.push(message.text());
    });
    await page.goto(url);
    const made = await use(page);
    const serious = problems.filter((problem) => !problem.includes("favicon") && !problem.includes("404"));
    if (serious.length > 0) throw new Error(serious.join("\n"));
    return made;
  } finally {
    await browser.close();
  }
}

/** @param {string} line */
function checkLine(line) {
  /** @type {{ y: number[], fallbacks: string[] }} */
  let result;
  try {
    result = JSON.parse(line);
  } catch {
    throw new Error(`not the line that was expected: ${line || "nothing"}`);
  }
  const { y, fallbacks } = result;
  if (fallbacks.length > 0) throw new Error(`fell back: ${fallbacks.join("; ")}`);
  const largest = Math.max(...expected.map(Math.abs));
  const off = Math.max(...expected.map((value, i) => Math.abs(value - (y[i] ?? Number.NaN))));
  if (!(y.length === expected.length && off <= 1e-6 * largest))
    throw new Error(`wrong numbers: off by ${off} of ${largest}`);
}

/** What the float64 reference makes of forward.mjs. */
async function expectedLine() {
  const engine = await createEngine({ backend: "reference" });
  const lru = await engine.lru(initLru({ dModel: 4, dState: 8, seed: 7 }));
  const { y } = await lru.forward(Float32Array.from({ length: 400 }, (_, i) => Math.sin(i)));
  return [...y];
}
