// @ts-check
// WebGPU in Node without a graphics card: the npm package `webgpu` (Dawn) needs a Vulkan driver, and the npm package
// `@sparticuz/chromium` carries one in software, SwiftShader. For tests, benchmarks and examples; the library itself
// never imports this.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliDecompressSync } from "node:zlib";

/**
 * What a process needs in its environment for WebGPU to find a Vulkan driver.
 * @typedef {object} GpuEnvironment
 * @property {Record<string, string>} env to be set when a child process starts (see `useGpu` for the running one)
 * @property {string} [reason] why nothing was prepared: not needed, or not possible
 */

/**
 * Makes `import("webgpu")` work in this process and in those it starts. Call it before that import.
 * @returns {GpuEnvironment}
 */
export function useGpu() {
  const gpu = prepareSoftwareGpu();
  const folder = gpu.env["LD_LIBRARY_PATH"]?.split(":")[0];
  if (folder) {
    const problem = preload(join(folder, "libvulkan.so.1"));
    if (problem) return { env: {}, reason: `SwiftShader does not load here: ${problem}` };
    Object.assign(process.env, gpu.env);
  }
  return gpu;
}

/**
 * Unpacks SwiftShader, once, unless a real driver is there. `LINREC_HARDWARE_GPU=1` says that one is, `=0` that it is
 * not wanted.
 * @returns {GpuEnvironment}
 */
export function prepareSoftwareGpu() {
  const wish = process.env["LINREC_HARDWARE_GPU"];
  if (process.platform !== "linux")
    return { env: {}, reason: `${process.platform} has its own graphics API` };
  if (wish === "1") return { env: {}, reason: "LINREC_HARDWARE_GPU=1" };
  const chosen = process.env["VK_DRIVER_FILES"] ?? process.env["VK_ICD_FILENAMES"];
  if (chosen && !chosen.includes(cacheFolder))
    return { env: {}, reason: `the environment names a Vulkan driver, ${chosen}` };
  const driver = wish === "0" ? undefined : hardwareVulkanDriver();
  if (driver) return { env: {}, reason: `there is a Vulkan driver, ${driver}` };
  const { folder, reason } = unpackChromium(["swiftshader.tar.br"], "swiftshader");
  if (!folder) return { env: {}, reason: reason ?? "" };
  return {
    env: {
      VK_ICD_FILENAMES: join(folder, "vk_swiftshader_icd.json"),
      LD_LIBRARY_PATH: prependPath(folder, process.env["LD_LIBRARY_PATH"]), // Dawn calls dlopen("libvulkan.so.1")
    },
  };
}

/**
 * The manifest of a Vulkan driver for real hardware, if one seems to be usable: driver, device node and loader are all
 * there. (Container images often have Mesa's manifests and no device.)
 * @returns {string | undefined}
 */
export function hardwareVulkanDriver() {
  const list = (/** @type {string} */ folder) =>
    existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
  const device = /\/(renderD\d+|nvidia\d+|mali\d+|dxg)$/;
  if (![...list("/dev/dri"), ...list("/dev")].some((path) => device.test(path))) return undefined;
  const libraries = ["/lib64", "/usr/lib64", "/usr/local/lib", "/usr/lib", ...list("/usr/lib")];
  if (!libraries.some((folder) => existsSync(join(folder, "libvulkan.so.1")))) return undefined;
  return ["/etc", "/usr/share", "/usr/local/share"]
    .flatMap((folder) => list(`${folder}/vulkan/icd.d`))
    .find((path) => path.endsWith(".json") && !/lvp|lavapipe|swiftshader/.test(path)); // those are software as well
}

const cacheFolder = fileURLToPath(new URL("../node_modules/.cache/linrec", import.meta.url));

/**
 * Unpacks archives of @sparticuz/chromium into `node_modules/.cache/linrec/<its version>/<name>`, once. The package's own
 * unpacker is not used because it writes to fixed names in the temporary folder, and two processes at once trip over each other.
 * @param {string[]} archives names in the package's `bin`
 * @param {string} name
 * @returns {{ folder?: string, reason?: string }}
 */
export function unpackChromium(archives, name) {
  if (process.platform !== "linux" || process.arch !== "x64") {
    return { reason: `@sparticuz/chromium is for Linux x64, this is ${process.platform} ${process.arch}` };
  }
  let entry;
  try {
    entry = createRequire(import.meta.url).resolve("@sparticuz/chromium");
  } catch {
    return { reason: "the development dependency @sparticuz/chromium is not installed: run `npm ci`" };
  }
  const packageFolder = entry.slice(0, entry.lastIndexOf("/build/"));
  const { version } = JSON.parse(readFileSync(join(packageFolder, "package.json"), "utf8"));
  const folder = join(cacheFolder, version, name);
  if (existsSync(folder)) return { folder };
  const building = `${folder}-${process.pid}`;
  try {
    mkdirSync(building, { recursive: true });
    for (const archive of archives) {
      const data = brotliDecompressSync(readFileSync(join(packageFolder, "bin", archive)));
      if (archive.endsWith(".tar.br")) untar(data, building);
      else writeFileSync(join(building, basename(archive, ".br")), data, { mode: 0o755 });
    }
    renameSync(building, folder); // atomic: whoever sees the folder sees all of it
  } catch (error) {
    // Another process may have been first, with the same files.
    if (!existsSync(folder))
      return { reason: `could not unpack @sparticuz/chromium into ${folder}: ${error}` };
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
  return { folder };
}

/**
 * Regular files of a plain ustar archive, which is all that package has.
 * @param {Buffer} tar
 * @param {string} folder
 */
function untar(tar, folder) {
  const text = (/** @type {number} */ from, /** @type {number} */ to) =>
    tar.toString("latin1", from, to).replace(/\0.*$/s, "");
  for (let at = 0; tar[at]; ) {
    const size = Number.parseInt(text(at + 124, at + 136), 8);
    if (/[\0 0]/.test(String.fromCharCode(tar[at + 156] ?? 0))) {
      const path = join(folder, text(at, at + 100));
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, tar.subarray(at + 512, at + 512 + size), { mode: 0o755 });
    }
    at += 512 + Math.ceil(size / 512) * 512;
  }
}

/**
 * Loads a shared library into this process for good. LD_LIBRARY_PATH is read when a process starts, so setting it
 * now helps only children; but a later dlopen("libvulkan.so.1") finds a library of that name that is already loaded.
 * @param {string} path
 * @returns {string | undefined} what went wrong
 */
function preload(path) {
  const RTLD_NODELETE = 0x1000; // Node closes again what is no addon; this keeps it loaded all the same
  try {
    process.dlopen({ exports: {} }, path, constants.dlopen.RTLD_NOW | RTLD_NODELETE);
  } catch (error) {
    const message = String(error);
    return message.includes("did not self-register") ? undefined : message; // Node's words for "loaded, but no addon"
  }
  return undefined;
}

/**
 * @param {string} folder
 * @param {string | undefined} path
 */
export function prependPath(folder, path) {
  return [folder, ...(path ?? "").split(":").filter((entry) => entry && entry !== folder)].join(":");
}
