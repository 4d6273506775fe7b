// @ts-check
// Which browser the tests run in, and how to start it: the system's Chrome or Chromium, else the one that comes with the
// npm package @sparticuz/chromium, so that on Linux `npm ci && npm test` needs nothing else.
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readSync, realpathSync } from "node:fs";
import { delimiter, join } from "node:path";
import { prependPath, unpackChromium } from "./software-gpu.mjs";

/**
 * @typedef {object} Browser
 * @property {string} executablePath
 * @property {string[]} args
 * @property {Record<string, string>} env the whole environment of the browser process
 */

/**
 * Never throws: without a browser, says why in words.
 * @returns {{ browser: Browser, reason?: never } | { browser?: never, reason: string }}
 */
export function findBrowser() {
  const wish = process.env["CHROME_PATH"];
  if (wish && !existsSync(wish)) return { reason: `CHROME_PATH is ${wish}, and there is no such file` };
  const system = wish || systemBrowsers().find(isUsable);
  if (system) return { browser: { executablePath: system, args, env: environment() } };

  const { folder, reason } = unpackChromium(
    ["chromium.br", "swiftshader.tar.br", "fonts.tar.br", "al2023.tar.br"],
    "chromium",
  );
  if (!folder) return { reason: `no Chrome or Chromium found (CHROME_PATH can name one), and ${reason}` };
  const executablePath = join(folder, "chromium");
  const env = { ...environment(), FONTCONFIG_PATH: join(folder, "fonts") };
  // Where NSS and its like are not installed, the package has them; where they are, the system's own are the right ones.
  const bundled = {
    ...env,
    LD_LIBRARY_PATH: prependPath(join(folder, "lib"), process.env["LD_LIBRARY_PATH"]),
  };
  if (!missingLibraries(executablePath, env)) return { browser: { executablePath, args, env } };
  const missing = missingLibraries(executablePath, bundled);
  if (missing)
    return { reason: `the browser in @sparticuz/chromium lacks libraries of this system: ${missing}` };
  return { browser: { executablePath, args, env: bundled } };
}

/** Quiet, reproducible, and with WebGPU on SwiftShader unless LINREC_HARDWARE_GPU=1 asks for the machine's own GPU. */
const args = [
  "--no-sandbox", // the sandbox does not start as root, the usual user in containers
  "--enable-unsafe-webgpu",
  ...(process.env["LINREC_HARDWARE_GPU"] === "1"
    ? ["--enable-features=Vulkan"]
    : ["--use-webgpu-adapter=swiftshader", "--enable-unsafe-swiftshader"]),
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** @returns {string[]} */
function systemBrowsers() {
  const on = (/** @type {(string | undefined)[]} */ roots, /** @type {string[]} */ names) =>
    roots.flatMap((root) => (root ? names.map((name) => join(root, name)) : []));
  const { HOME, PATH, LOCALAPPDATA, ProgramFiles } = process.env;
  switch (process.platform) {
    case "darwin":
      return on(
        ["/Applications", HOME && `${HOME}/Applications`],
        [
          "Google Chrome.app/Contents/MacOS/Google Chrome",
          "Chromium.app/Contents/MacOS/Chromium",
          "Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
        ],
      );
    case "win32":
      return on(
        [ProgramFiles, process.env["ProgramFiles(x86)"], LOCALAPPDATA],
        [
          "Google\\Chrome\\Application\\chrome.exe",
          "Chromium\\Application\\chrome.exe",
          "Microsoft\\Edge\\Application\\msedge.exe",
        ],
      );
    default:
      return on((PATH ?? "").split(delimiter), [
        "google-chrome-stable",
        "google-chrome",
        "chromium",
        "chromium-browser",
        "chrome",
      ]);
  }
}

/**
 * A browser in a snap cannot read the profile folder that the test runner makes for it; it may hide behind a script.
 * @param {string} path
 */
function isUsable(path) {
  if (!existsSync(path)) return false;
  const head = Buffer.alloc(4096);
  const file = openSync(path, "r");
  readSync(file, head);
  closeSync(file);
  return !/\/snap(\/|$)/.test(realpathSync(path)) && !head.includes("/snap/");
}

/**
 * Names of shared libraries that `executable` would not find; nothing where `ldd` cannot tell.
 * @param {string} executable
 * @param {Record<string, string>} env
 */
function missingLibraries(executable, env) {
  const { stdout } = spawnSync("ldd", [executable], { env, encoding: "utf8" });
  return [...(stdout ?? "").matchAll(/(\S+) => not found/g)].map((match) => match[1]).join(", ");
}

/** @returns {Record<string, string>} */
function environment() {
  return Object.fromEntries(
    Object.entries(process.env).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
}
