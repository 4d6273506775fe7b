/** The parent's side of child.mjs. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

const childPath = fileURLToPath(new URL("child.mjs", import.meta.url));

export class ContenderProcess {
  #child;
  #pending = new Map();
  #count = 0;
  #ended;

  constructor() {
    this.#child = fork(childPath, [], {
      serialization: "advanced",
      // Libraries' own chatter would tear the table apart.
      stdio: ["ignore", "ignore", process.env.BENCH_DEBUG ? "inherit" : "ignore", "ipc"],
    });
    this.#child.on("message", ({ id, result, error }) => {
      const { resolve, reject } = this.#pending.get(id);
      this.#pending.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    });
    this.#child.on("exit", (code, signal) => {
      const memory = signal === "SIGKILL" ? " (out of memory?)" : "";
      this.#ended = new Error(`its process ended: ${signal ?? `exit code ${code}`}${memory}`);
      for (const { reject } of this.#pending.values()) reject(this.#ended);
      this.#pending.clear();
    });
  }

  /** Sends a command of child.mjs. Rejects with its error, or when it took longer than `timeout` seconds. */
  async ask(command, args, timeout = 600) {
    if (this.#ended) throw this.#ended;
    const id = this.#count++;
    let timer;
    try {
      return await new Promise((resolve, reject) => {
        this.#pending.set(id, { resolve, reject });
        timer = setTimeout(() => {
          this.end();
          reject(new Error(`no answer to "${command}" within ${timeout} s`));
        }, 1000 * timeout);
        this.#child.send({ id, command, args });
      });
    } finally {
      clearTimeout(timer);
    }
  }

  end() {
    this.#child.kill("SIGKILL");
  }
}

/** Runs `use` with a process of its own for a contender. */
export async function withContender(contender, use) {
  const child = new ContenderProcess();
  try {
    const opened = await child.ask("open", contender);
    return await use(child, opened);
  } finally {
    child.end();
  }
}
