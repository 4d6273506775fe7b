/** PyTorch on CUDA beside it, where python3 has it: lru_torch.py. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const script = fileURLToPath(new URL("lru_torch.py", import.meta.url));
const LONGEST_MS = 300_000;

/** @returns {object} { device, torch, rows: [[{ way, ms, msWithCopies } or { way, failed }]] }, or { missing } with the reason */
export function measureTorch(shapes) {
  const input = JSON.stringify(shapes);
  const { error, stdout, stderr, status } = spawnSync("python3", [script], {
    input,
    encoding: "utf8",
    timeout: LONGEST_MS,
  });
  if (error) return { missing: error.code === "ENOENT" ? "there is no python3" : error.message };
  if (status !== 0) return { missing: `lru_torch.py failed: ${stderr.trim().split("\n").at(-1)}` };
  return JSON.parse(stdout.trim().split("\n").at(-1));
}
