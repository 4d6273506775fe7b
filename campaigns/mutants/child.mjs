// A judge: a process that answers one question at a time, and is ended when it does not answer in time.
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

export class Judge {
  #file;
  #child;

  constructor(file) {
    this.#file = fileURLToPath(new URL(file, import.meta.url));
  }

  /** The answer; undefined if there was none within `ms`. Throws when the process cannot be started. */
  async ask(question, ms) {
    this.#child ??= await this.#start();
    const answer = await this.#hear(() => this.#child.send(question), ms);
    if (answer === undefined) this.end();
    return answer;
  }

  end() {
    // With the processes that it has started: one of them may be in an endless loop.
    if (this.#child) process.kill(-this.#child.pid, "SIGKILL");
    this.#child = undefined;
  }

  async #start() {
    this.#child = fork(this.#file, {
      serialization: "advanced",
      detached: true,
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    if (!(await this.#hear(() => {}, 60_000))?.ready) throw new Error(`${this.#file} does not start`);
    return this.#child;
  }

  #hear(begin, ms) {
    const child = this.#child;
    return new Promise((resolve) => {
      const finish = (answer) => {
        clearTimeout(timer);
        child.off("message", finish).off("exit", gone);
        resolve(answer);
      };
      const gone = () => {
        this.#child = undefined;
        finish(undefined);
      };
      const timer = setTimeout(finish, ms, undefined);
      child.on("message", finish).on("exit", gone);
      begin();
    });
  }
}
