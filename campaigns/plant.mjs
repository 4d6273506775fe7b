// Builds a copy of the library with a bug planted in its sources: what shows that a campaign can find something.
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const project = fileURLToPath(new URL("..", import.meta.url));

/** A copy of the project in a folder of its own, but for what is built, installed or large. */
export function copyProject() {
  const folder = mkdtempSync(join(tmpdir(), "linrec-copy-"));
  const left = [".git", "node_modules", "dist", "bench"].map((name) => join(project, name));
  cpSync(project, folder, { recursive: true, filter: (path) => !left.includes(path) });
  symlinkSync(join(project, "node_modules"), join(folder, "node_modules"));
  return folder;
}

/**
 * @param {{ file: string, find: string, replace: string }} bug `find` must stand in the file just once
 * @returns the address of the built library, and how to remove it
 */
export function plantBug({ file, find, replace }) {
  const folder = copyProject();
  const dispose = () => rmSync(folder, { recursive: true, force: true });
  try {
    const path = join(folder, file);
    const pieces = readFileSync(path, "utf8").split(find);
    if (pieces.length !== 2) {
      throw new Error(`${file} has ${pieces.length - 1} places that read ${JSON.stringify(find)}, not one`);
    }
    writeFileSync(path, pieces.join(replace));
    const { status, stderr } = spawnSync(process.execPath, ["esbuild.config.mjs", "--quiet"], {
      cwd: folder,
      encoding: "utf8",
    });
    if (status !== 0) throw new Error(`the library with the planted bug does not build: ${stderr}`);
  } catch (error) {
    dispose();
    throw error;
  }
  return { library: pathToFileURL(join(folder, "dist/index.js")).href, dispose };
}
