/** What run.sh of a bundle starts: finds a driver, runs the golden cases, and then the benchmark. Arguments go to run.mjs. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { driverChoices, manifestText } from "./drivers.mjs";

const PROBE_MS = 60_000;
const script = (name) => fileURLToPath(new URL(`${name}.mjs`, import.meta.url));
const root = fileURLToPath(new URL("../..", import.meta.url));
const out = resolve(process.env.OUT || "results");

const found = findDriver();
if (found) process.exitCode = run(found);

function findDriver() {
  const choices = driverChoices({
    env: process.env,
    exists: existsSync,
    loader: resolve(root, "lib"),
    own: resolve(root, "drivers"),
  });
  const reasons = [];
  for (const { label, env, manifest } of choices) {
    if (manifest) {
      mkdirSync(dirname(manifest.path), { recursive: true });
      writeFileSync(manifest.path, manifestText(manifest.library));
    }
    const merged = { ...process.env, ...env };
    const { stdout, stderr, error } = spawnSync(process.execPath, [script("probe")], {
      env: merged,
      encoding: "utf8",
      timeout: PROBE_MS,
    });
    const line = stdout?.trim().split("\n").at(-1);
    if (line?.startsWith("{")) {
      console.log(`driver: ${label}\nadapter: ${line}`);
      return merged;
    }
    reasons.push(
      `  ${label}: ${error?.message ?? stderr?.split("\n").find((text) => /error|cannot/i.test(text)) ?? "no adapter"}`,
    );
  }
  console.error(
    `No Vulkan driver was found that WebGPU can use. Tried:\n${reasons.join("\n")}\nName its manifest in VK_ICD_FILENAMES.`,
  );
  process.exitCode = 1;
  return undefined;
}

/** Right first; the benchmark is run even then, for its shapes are checked one by one, but the exit code remembers. */
function run(env) {
  const [golden, bench] = [
    ["golden", ["--out", out]],
    ["run", ["--out", out, ...process.argv.slice(2)]],
  ].map(
    ([name, args]) =>
      spawnSync(process.execPath, [script(name), ...args], { env, stdio: "inherit" }).status ?? 1,
  );
  console.log(`Results are in ${out}.`);
  return golden || bench;
}
