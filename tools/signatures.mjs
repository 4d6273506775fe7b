// `npm run signatures`: what is installed was signed by the registry's keys, if it has any. Mirrors have none, and offline there is
// nobody to ask: said, not counted as a fault.
import { execFileSync, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const options = { cwd: fileURLToPath(new URL("..", import.meta.url)), encoding: "utf8" };
const registry = execFileSync("npm", ["config", "get", "registry"], options).trim();
const reason = await fetch(new URL("-/npm/v1/keys", registry)).then(
  ({ ok, status }) => (ok ? undefined : `the registry has no keys (HTTP ${status})`),
  (error) => `the registry cannot be reached (${error.cause?.code ?? error.message})`,
);
if (reason) console.log(`npm audit signatures: skipped: ${reason}`);
else
  process.exitCode = spawnSync("npm", ["audit", "signatures"], { ...options, stdio: "inherit" }).status ?? 1;
