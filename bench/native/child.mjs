/** A process of lru.c: a line asks, an answer comes. */
import { spawn } from "node:child_process";
import { once } from "node:events";

export class Child {
  #child;

  constructor(program, file) {
    this.#child = spawn(program, [file], { stdio: ["pipe", "pipe", "inherit"] });
    this.#child.once("exit", (code) => {
      if (code) throw new Error(`${program} ended with code ${code}`);
    });
  }

  /** Runs the next piece: its ms. */
  async run() {
    return Number(await this.#ask("", (answer) => answer.at(-1) === NEWLINE));
  }

  /** y of the last piece, of so many bytes. */
  y(bytes) {
    return this.#ask("y", (answer) => answer.length >= bytes);
  }

  async end() {
    const exit = once(this.#child, "exit");
    this.#child.stdin.end();
    await exit;
  }

  async #ask(line, isWhole) {
    this.#child.stdin.write(`${line}\n`);
    const parts = [];
    do parts.push((await once(this.#child.stdout, "data"))[0]);
    while (!isWhole(parts.length > 1 ? Buffer.concat(parts) : parts[0]));
    return Buffer.concat(parts);
  }
}

const NEWLINE = 10;
