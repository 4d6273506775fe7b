// The offline bundle of bench/gpu: where it looks for a driver, and that what it brings is enough to run.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { driverChoices } from "../bench/gpu/drivers.mjs";
import { runScript, writePayload } from "../bench/gpu-bundle.mjs";
import { prepareSoftwareGpu } from "../tools/software-gpu.mjs";

describe("where a driver is looked for", () => {
  const choices = (env: Record<string, string>, ...files: string[]) =>
    driverChoices({
      env,
      exists: (path: string) => files.includes(path),
      loader: "/bundle/lib",
      own: "/bundle/icd",
    });
  const icds = (list: ReturnType<typeof driverChoices>) => list.map(({ env }) => env.VK_ICD_FILENAMES);

  test("what the environment names, and nothing else", () => {
    const [choice, ...others] = choices(
      { VK_ICD_FILENAMES: "/mine.json" },
      "/etc/vulkan/icd.d/nvidia_icd.json",
    );
    expect(others).toEqual([]);
    expect(choice?.env).toEqual({ LD_LIBRARY_PATH: "/bundle/lib" });
    expect(choices({ VK_DRIVER_FILES: "/mine.json" })).toHaveLength(1);
  });

  test("the driver's own manifest first, then manifests written for its libraries", () => {
    const manifest = "/usr/share/vulkan/icd.d/nvidia_icd.json";
    const found = choices({}, manifest);
    expect(icds(found)).toEqual([
      manifest,
      "/bundle/icd/libGLX_nvidia.so.0.json",
      "/bundle/icd/libEGL_nvidia.so.0.json",
    ]);
    expect(found.map((choice) => choice.manifest?.library)).toEqual([
      undefined,
      "libGLX_nvidia.so.0",
      "libEGL_nvidia.so.0",
    ]);
  });

  test("the machine's own loader before the one that was brought; the driver's folders are searched", () => {
    const files = ["/usr/lib64/libvulkan.so.1", "/usr/local/nvidia/lib64"];
    const paths = choices({ VK_ICD_FILENAMES: "/mine.json", LD_LIBRARY_PATH: "/own" }, ...files).map(
      ({ env }) => env.LD_LIBRARY_PATH,
    );
    expect(paths).toEqual(["/own:/usr/local/nvidia/lib64", "/bundle/lib:/own:/usr/local/nvidia/lib64"]);
  });
});

test.skipIf(process.platform === "win32")(
  "run.sh unpacks what it starts with gzip, starts it, and cleans up",
  () => {
    const folder = mkdtempSync(join(tmpdir(), "linrec-bundle-"));
    const pack = (name: string, text: string) => writeFileSync(join(folder, name), gzipSync(text));
    mkdirSync(join(folder, "payload/bench/gpu"), { recursive: true });
    writeFileSync(join(folder, "payload/bench/gpu/offline.mjs"), "benchmark");
    pack("dawn.node.gz", "dawn");
    // In Node's place: shows that all is where Node looks for it.
    pack(
      "node.gz",
      '#!/bin/sh\ncd "$(dirname "$1")/../.."; cat "$1" node_modules/webgpu/dist/*/dawn.node\necho " $2 $OUT"; pwd',
    );
    writeFileSync(join(folder, "run.sh"), runScript);
    const options = { encoding: "utf8", cwd: folder, env: { PATH: "/usr/bin:/bin" } } as const;
    const [line, work] = execFileSync("/bin/sh", ["run.sh", "--quick"], options)
      .trim()
      .split("\n")
      .slice(-2) as [string, string];
    expect(line).toMatch(/^benchmarkdawn --quick .*\/results$/);
    expect(existsSync(work)).toBe(false);
    rmSync(folder, { recursive: true });
  },
);

describe("what it brings", () => {
  const folder = mkdtempSync(join(tmpdir(), "linrec-bundle-"));
  const { env, reason = "" } = prepareSoftwareGpu();
  const icd = env["VK_ICD_FILENAMES"];
  const run = (script: string, ...args: string[]) =>
    execFileSync(process.execPath, [join(folder, "bench/gpu", script), ...args], {
      encoding: "utf8",
      env: { VK_ICD_FILENAMES: icd, LD_LIBRARY_PATH: join(folder, "lib") },
    });

  beforeAll(async () => {
    if (!icd) return;
    await writePayload(folder);
    const dawn = "node_modules/webgpu/dist/linux-x64";
    mkdirSync(join(folder, dawn), { recursive: true });
    symlinkSync(resolve(dawn, "dawn.node"), join(folder, dawn, "dawn.node"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("finds the adapter, with nothing else in the environment", (context) => {
    if (!icd) context.skip(reason);
    expect(JSON.parse(run("probe.mjs"))).toMatchObject({ software: true, timestamps: true });
  });

  test("has all that the benchmark imports", (context) => {
    if (!icd) context.skip(reason);
    expect(run("run.mjs", "--help")).toMatch(/--only/);
  });

  test("is refused where something is missing, in words", async () => {
    const half = join(folder, "half");
    await expect(writePayload(half, "/nowhere/libvulkan.so.1")).rejects.toThrow(/libvulkan/);
  });
});
