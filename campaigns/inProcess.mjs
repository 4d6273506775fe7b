// The report of one campaign in a process of its own, so that none inherits what another left behind.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

/** @param size full, short, or a part that the campaign knows */
export function runInProcess(url, libraryUrl, size) {
  const flags = ["--expose-gc", fileURLToPath(new URL("child.mjs", import.meta.url)), url, libraryUrl, size];
  return new Promise((resolve) => {
    const child = spawn(process.execPath, flags, { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (text) => {
      output += text;
    });
    child.on("close", (code, signal) => {
      try {
        resolve(JSON.parse(output.trimEnd().split("\n").at(-1)));
      } catch {
        const how = `the process ended with ${signal ?? code} and no report`;
        resolve({ figures: {}, broken: 1, examples: [how], seconds: Number.NaN });
      }
    });
  });
}
