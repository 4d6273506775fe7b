/** PyTorch on the CPU, in a Python of the user's ($PYTHON or python3): lru_torch.py, which also takes the times. */
import { spawn } from "node:child_process";
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { fillInput, inputLength, paramsOf } from "../shapes.mjs";

const script = fileURLToPath(new URL("lru_torch.py", import.meta.url));

/** Complex values in memory at once, by x's and by the states', each of twice the length where there is an FFT. */
const ways = {
  lrnnx: { name: "its layer: FFT, kernel made anew", copies: 2 * (3 + 3) },
  fft: { name: "FFT, kernel made once", copies: 2 * (1 + 3) },
  doubling: { name: "doubling", copies: 1 + 3 },
};

/** @param {{ threads: number, way: "lrnnx" | "fft" | "doubling" }} options */
export async function open({ threads, way }) {
  const python = new Python(process.env.PYTHON ?? "python3", threads);
  const { torch } = await python.answer();
  return {
    versions: { torch },
    pid: python.pid,
    formulations: ({ batch, seqLen, dModel, dState }) => {
      const { name, copies } = ways[way];
      return [{ name, bytes: 8 * copies * batch * seqLen * Math.max(dModel, dState) }];
    },
    async prepare(shape) {
      const p = paramsOf(shape);
      const inputs = {
        parameters: [p.nuLog, p.thetaLog, p.gammaLog, p.BRe, p.BIm, p.CRe, p.CIm, p.D],
        x: [fillInput(new Float32Array(inputLength(shape)))],
      };
      await withFolder((folder) => {
        const paths = {};
        for (const [name, arrays] of Object.entries(inputs)) {
          paths[name] = join(folder, name);
          for (const array of arrays)
            appendFileSync(paths[name], new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
        }
        return python.ask({ do: "prepare", shape, way, threads, ...paths });
      });
      return {
        run: async () => (await python.ask({ do: "run" })).ms,
        read: () =>
          withFolder(async (folder) => {
            const y = join(folder, "y");
            await python.ask({ do: "read", y });
            return new Float32Array(new Uint8Array(readFileSync(y)).buffer);
          }),
        dispose() {},
      };
    },
  };
}

async function withFolder(use) {
  const folder = mkdtempSync(join(tmpdir(), "linrec-bench-"));
  try {
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The process of lru_torch.py: a line of JSON for a line of JSON. It ends with this one, when its input does. */
class Python {
  #child;
  #lines;
  #ended;
  #said = "";

  constructor(command, threads) {
    const env = { ...process.env, OMP_NUM_THREADS: String(threads), MKL_NUM_THREADS: String(threads) };
    this.#child = spawn(command, [script], { env, stdio: ["pipe", "pipe", "pipe"] });
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
        resolve(
          /No module named 'torch'/.test(last)
            ? `${command} has no torch`
            : `Python ended: ${last || (signal ?? code)}`,
        );
      });
    });
  }

  get pid() {
    return this.#child.pid;
  }

  ask(request) {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    return this.answer();
  }

  /** Rejects when it has ended, or with its error. */
  async answer() {
    const { value } = await Promise.race([this.#lines.next(), this.#ended.then(() => ({}))]);
    if (value === undefined) throw new Error(await this.#ended);
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(answer.error);
    return answer;
  }
}
