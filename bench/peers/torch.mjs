/** PyTorch on the CPU, in a Python of the user's ($PYTHON or python3): lru_torch.py, which also takes the times. */
import { appendFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LineProcess, withFolder } from "../lines.mjs";
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

/** The process of lru_torch.py: a line of JSON for a line of JSON. */
class Python {
  #command;
  #process;

  constructor(command, threads) {
    this.#command = command;
    const count = String(threads);
    this.#process = new LineProcess(command, [script], { OMP_NUM_THREADS: count, MKL_NUM_THREADS: count });
  }

  get pid() {
    return this.#process.pid;
  }

  ask(request) {
    return this.#understood(this.#process.ask(JSON.stringify(request)));
  }

  /** Rejects when it has ended, or with its error. */
  answer() {
    return this.#understood(this.#process.answer());
  }

  async #understood(line) {
    const text = await line.catch((error) => {
      throw /No module named 'torch'/.test(error.message)
        ? new Error(`${this.#command} has no torch`)
        : error;
    });
    const answer = JSON.parse(text);
    if (answer.error) throw new Error(answer.error);
    return answer;
  }
}
