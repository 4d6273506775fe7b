/** A process that is no Node and answers each line with a line. It ends with this one, when its input does. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export class LineProcess {
  #child;
  #lines;
  #ended;
  #said = "";

  constructor(command, args, env = {}) {
    this.#child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stderr.on("data", (text) => {
      this.#said = `${this.#said}${text}`.slice(-1000);
    });
    this.#child.stdin.on("error", () => {}); // told by what follows
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
    this.#ended = new Promise((resolve) => {
      this.#child.on("error", ({ code, message }) =>
        resolve(code === "ENOENT" ? `there is no ${command}` : message),
      );
      this.#child.on("close", (code, signal) => {
        const last = this.#said.trim().split("\n").at(-1);
        resolve(`${command} ended: ${last || (signal ?? code)}`);
      });
    });
  }

  get pid() {
    return this.#child.pid;
  }

  ask(line) {
    this.#child.stdin.write(`${line}\n`);
    return this.answer();
  }

  /** Its next line. Rejects with its last words when it has ended. */
  async answer() {
    const { value } = await Promise.race([this.#lines.next(), this.#ended.then(() => ({}))]);
    if (value === undefined) throw new Error(await this.#ended);
    return value;
  }

  end() {
    this.#child.stdin.end();
  }
}

/** Calls `use` with a folder that is removed when it is through. */
export async function withFolder(use) {
  const folder = mkdtempSync(join(tmpdir(), "linrec-bench-"));
  try {
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
