/** The command `linrec`, as built: what it writes, what it says, its exit codes. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  lstatSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createEngine, type Engine, fromLruParams, type Model, writeSafetensors } from "../src/index.js";
import { expectSameBits } from "./support/bits.js";
import { loadGolden } from "./support/golden.js";
import { loadLrnnx } from "./support/lrnnx.js";
import { floats, hardParams } from "./support/problems.js";

const command = fileURLToPath(new URL("../dist/cli.js", import.meta.url));
const digits = fileURLToPath(new URL("../examples/data/smnist.safetensors", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "linrec-cli-"));
const file = (name: string) => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function linrec(...args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [command, ...args], (error, stdout, stderr) =>
      resolve({ code: error ? (error.code as unknown as number) : 0, stdout, stderr }),
    );
  });
}

/** A .npy file as NumPy 1 or 2 writes it. */
function npy(
  descr: string,
  shape: readonly number[],
  data: ArrayBufferView,
  version = 1,
  order = "False",
): Buffer {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const fields = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': (${tuple}), }`;
  const header = `${fields.padEnd(117)}\n`;
  const size = Buffer.alloc(version === 1 ? 2 : 4);
  if (version === 1) size.writeUInt16LE(header.length);
  else size.writeUInt32LE(header.length);
  const values = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return Buffer.concat([
    Buffer.from(`\x93NUMPY${String.fromCharCode(version)}\0`, "latin1"),
    size,
    Buffer.from(header),
    values,
  ]);
}

function readNpy(path: string): { shape: string; data: Float32Array } {
  const bytes = readFileSync(path);
  const start = 10 + bytes.readUInt16LE(8);
  expect(bytes.toString("latin1", 0, 8)).toBe("\x93NUMPY\x01\x00");
  expect(start % 64).toBe(0);
  const header = bytes.toString("latin1", 10, start);
  expect(header).toMatch(/^\{'descr': '<f4', 'fortran_order': False, 'shape': \([\d, ]+\), \} *\n$/);
  return {
    shape: /\((.*)\)/.exec(header)?.[1] ?? "",
    data: new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length)),
  };
}

describe("run", () => {
  let engine: Engine;
  let layer: Model;
  let classifier: Model;
  beforeAll(async () => {
    engine = await createEngine({ backend: "wasm", threads: 0 });
    const bytes = writeSafetensors(fromLruParams(hardParams(3, 4, 1)), {
      linrec: '{"architecture": "lrnnx/lru"}',
    });
    writeFileSync(file("layer.safetensors"), bytes);
    layer = await engine.model(bytes);
    classifier = await engine.model(readFileSync(digits));
  });
  afterAll(() => engine.dispose());

  test.each([
    [[7, 3], "7, 3"],
    [[2, 5, 3], "2, 5, 3"],
    [[0, 3], "0, 3"],
    [[2, 400_000, 3], "2, 400000, 3"], // rows larger than a group: as streams
  ])("[%s] of float32 is one forward, bit for bit", async (shape, outShape) => {
    const x = floats(
      shape.reduce((a, b) => a * b),
      1,
    );
    writeFileSync(file("x.npy"), npy("<f4", shape, x));
    const outcome = await linrec(
      "run",
      file("layer.safetensors"),
      file("x.npy"),
      "-o",
      file("y.npy"),
      "--backend",
      "wasm",
    );
    expect(outcome).toEqual({ code: 0, stdout: "", stderr: expect.stringContaining("tokens/s") });
    const { y } = await layer.forward(x, { batch: shape.length === 3 ? (shape[0] as number) : 1 });
    const out = readNpy(file("y.npy"));
    expect(out.shape).toBe(outShape);
    expectSameBits(out.data, y, "y");
    expect(existsSync(file("y.npy.part"))).toBe(false);
  });

  test.each([
    ["<f8", Float64Array, 2],
    ["<i4", Int32Array, 1],
    ["|u1", Uint8Array, 1],
    ["<i8", BigInt64Array, 1],
    ["<u2", Uint16Array, 1],
    ["<u4", Uint32Array, 1],
    ["<u8", BigUint64Array, 1],
  ] as const)("reads %s, and a model that pools gives one row a sequence", async (descr, type, version) => {
    const numbers = Array.from({ length: 2 * 784 }, (_, i) => (i * 7) % 3);
    const data =
      /8$/.test(descr) && descr !== "<f8"
        ? (type as typeof BigInt64Array).from(numbers, BigInt)
        : (type as typeof Int32Array).from(numbers);
    writeFileSync(file("x.npy"), npy(descr, [2, 784], data, version));
    const { code } = await linrec("run", digits, file("x.npy"), "-o", file("y.npy"), "-q");
    expect(code).toBe(0);
    const out = readNpy(file("y.npy"));
    expect(out.shape).toBe("2, 10");
    const { y } = await classifier.forward(Float32Array.from(numbers), { batch: 2 });
    expectSameBits(out.data, y, "y");
  });

  const x = npy("<f4", [2, 3], floats(6, 1));
  const cut = (bytes: Buffer) => bytes.subarray(0, bytes.length - 1);
  test.each<[string, Buffer, string[], RegExp]>([
    ["of another width", npy("<f4", [3, 2], floats(6, 1)), [], /is \[3,2\].*\[tokens, 3\].*transpose/],
    ["of Fortran order", npy("<f4", [2, 3], floats(6, 1), 1, "True"), [], /ascontiguousarray/],
    ["of another type", npy("<c8", [2, 3], floats(12, 1)), [], /<c8.*astype/],
    ["cut short", cut(x), [], /cut short/],
    ["that is no .npy", Buffer.from("1, 2, 3"), [], /no \.npy.*numpy\.save/],
    ["with a checkpoint read wrongly", x, ["--spec", '{"architecture": "lrnnx/lur"}'], /lrnnx\/lur/],
  ])("refuses an input %s: exit code 1, no output", async (_, input, options, says) => {
    writeFileSync(file("x.npy"), input);
    const out = file("refused.npy");
    const outcome = await linrec("run", file("layer.safetensors"), file("x.npy"), "-o", out, ...options);
    expect(outcome).toEqual({ code: 1, stdout: "", stderr: expect.stringMatching(says) });
    expect(existsSync(out) || existsSync(`${out}.part`)).toBe(false);
  });

  test("ids beyond int32 are none, and another dtype than the model reads is named with it", async () => {
    const { checkpoint, spec } = await loadGolden("lm_01_tied_rms_1layer");
    writeFileSync(file("lm.safetensors"), writeSafetensors(checkpoint, { linrec: JSON.stringify(spec) }));
    const outcome = async (descr: string, data: ArrayBufferView) => {
      writeFileSync(file("ids.npy"), npy(descr, [2], data));
      return linrec("run", file("lm.safetensors"), file("ids.npy"), "-o", file("y.npy"));
    };
    expect((await outcome("<i8", BigInt64Array.of(1n, 2n))).code).toBe(0);
    for (const id of [2n ** 32n + 2n, -(2n ** 32n) + 2n]) {
      const { code, stderr } = await outcome("<i8", BigInt64Array.of(1n, id));
      expect([code, stderr]).toEqual([1, expect.stringMatching(/token 1\) is (2147483647|-1);/)]);
    }
    expect((await outcome("<c8", floats(4, 1))).stderr).toMatch(/<c8.*astype\("int32"\)/);
  });

  test("a U-Net reads a sequence of more values than a group whole", async () => {
    const { checkpoint, spec } = await loadLrnnx("unet_01_default");
    const bytes = writeSafetensors(checkpoint, { linrec: JSON.stringify(spec) });
    writeFileSync(file("unet.safetensors"), bytes);
    const x = floats(2 ** 20 + 16, 1);
    writeFileSync(file("x.npy"), npy("<f4", [x.length, 1], x));
    const args = [file("unet.safetensors"), file("x.npy"), "-o", file("y.npy"), "--backend", "wasm"];
    expect(await linrec("run", ...args)).toMatchObject({ code: 0 });
    const { y } = await (await engine.model(bytes)).forward(x);
    expectSameBits(readNpy(file("y.npy")).data, y, "y");
  });

  test.each(["SIGINT", "SIGTERM"] as const)(
    "%s: exit code 130, and nothing is left of the output",
    async (signal) => {
      const tokens = 50_000_000; // half a minute's work, in a file that takes no room on the disk
      const header = npy("<f4", [tokens, 3], new Float32Array());
      writeFileSync(file("long.npy"), header);
      truncateSync(file("long.npy"), header.length + 12 * tokens);
      const args = ["run", file("layer.safetensors"), file("long.npy"), "-o", file("long-y.npy")];
      const child = spawn(process.execPath, [command, ...args, "--backend", "reference"]);
      let stderr = "";
      child.stderr.on("data", (data) => {
        stderr += data;
      });
      await expect.poll(() => existsSync(file("long-y.npy.part")), { timeout: 30_000 }).toBe(true);
      child.kill(signal);
      expect(await once(child, "exit")).toEqual([130, null]);
      expect(stderr).toBe("linrec: interrupted; nothing was written.\n");
      expect(existsSync(file("long-y.npy")) || existsSync(file("long-y.npy.part"))).toBe(false);
    },
  );

  test("writes over nothing that it reads, through a link into what it names, and to no folder, pipe or device", async () => {
    const [model, input] = [file("layer.safetensors"), file("safe.npy")];
    writeFileSync(input, npy("<f4", [4, 3], new Float32Array(12)));
    symlinkSync(input, file("link.npy"));
    for (const out of [input, model, file("link.npy")]) {
      const before = readFileSync(out);
      const { code, stderr } = await linrec("run", model, input, "-o", out);
      expect([code, stderr]).toEqual([
        2,
        expect.stringMatching(/would be written over .* Name another output/),
      ]);
      expect(readFileSync(out)).toEqual(before);
    }
    const pipe = createServer().listen(file("pipe.npy")); // a socket: neither can be written at any place
    await once(pipe, "listening");
    for (const [out, says] of [
      [folder, /it is a folder\. Name a file/],
      [file("pipe.npy"), /it is a pipe or a device\. Name a file/],
    ] as const) {
      const { code, stderr } = await linrec("run", model, input, "-o", out);
      expect([code, stderr]).toEqual([1, expect.stringMatching(says)]);
      expect(existsSync(`${out}.part`)).toBe(false);
    }
    pipe.close();
    writeFileSync(file("old.npy"), "");
    symlinkSync(file("old.npy"), file("to-old.npy"));
    expect((await linrec("run", model, input, "-o", file("to-old.npy"))).code).toBe(0);
    expect(readNpy(file("old.npy")).shape).toBe("4, 3");
    expect(lstatSync(file("to-old.npy")).isSymbolicLink()).toBe(true);
  });

  test("says which file is no checkpoint, and how one is made", async () => {
    const { code, stderr } = await linrec("inspect", command);
    expect(code).toBe(1);
    expect(stderr).toMatch(/cli\.js: Not a valid \.safetensors file: .*Save one with/);
  });

  test("names a file that is not there", async () => {
    const { code, stderr } = await linrec("run", file("none.safetensors"), "x.npy", "-o", "y.npy");
    expect(code).toBe(1);
    expect(stderr).toMatch(/none\.safetensors: there is no such file/);
  });
});

test.each<[string[], RegExp]>([
  [[], /No command/],
  [["fly"], /no command "fly".*run, inspect/],
  [["run", "a.safetensors", "-o", "y.npy"], /takes MODEL.safetensors INPUT.npy; got a.safetensors/],
  [["run", "a.safetensors", "b.npy"], /-o OUTPUT/],
  [["inspect", digits, "--bckend", "wasm"], /bckend/],
  [["run", "a.safetensors", "-", "-o", "y.npy"], /`-` would be a pipe/],
  [["check", "--backend", "cuda"], /auto, wasm, webgpu or reference; got "cuda"/],
  [["check", "--threads", "many"], /--threads is a whole number/],
  [["inspect", digits, "--spec", "lru"], /JSON/],
])("exit code 2 for `linrec %s`, and where help is", async (args, says) => {
  const outcome = await linrec(...args);
  expect(outcome).toEqual({ code: 2, stdout: "", stderr: expect.stringMatching(says) });
  expect(outcome.stderr).toContain("--help");
});

test("--help names every command and the exit codes; --version is the package's", async () => {
  const { code, stdout } = await linrec("--help");
  expect(code).toBe(0);
  for (const word of ["run", "inspect", "check", "bench", "serve", "Exit codes"])
    expect(stdout).toContain(word);
  const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  expect((await linrec("-v")).stdout).toBe(`${manifest.version}\n`);
});

test("inspect shows the stages and how long each layer remembers", async () => {
  const { code, stdout } = await linrec("inspect", digits);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^minimal-lru\/classification: x \[batch, seqLen, 1\] -> y \[batch, 10\]/);
  expect(stdout).toMatch(/\nlogSoftmax +logSoftmax +10 /);
  expect(stdout).toMatch(/encoder\.layers_2\.seq +64 +0\.99\d+ /);
});

test("a reader that has had enough ends it without a word", async () => {
  const child = spawn(process.execPath, [command, "check", "--backend", "wasm", "--threads", "0"]);
  let stderr = "";
  child.stderr.on("data", (data) => {
    stderr += data;
  });
  child.stdout.once("data", () => child.stdout.destroy());
  expect(await once(child, "exit")).toEqual([0, null]);
  expect(stderr).toBe("");
});

test("check tests every backend that is asked for", async () => {
  const { code, stdout } = await linrec("check", "--backend", "wasm", "--threads", "1");
  expect(stdout).toContain("All right.");
  expect(stdout).toMatch(/layer, .* wasm, 1 threads? .* ok/);
  expect(code).toBe(0);
});

test("bench predicts and measures", async () => {
  const { code, stdout } = await linrec("bench", "--backend", "wasm", "--threads", "0");
  expect(stdout).toMatch(/1 x 1024, 64 +wasm, calling thread +[\d.]+ ms +[\d.]+ ms +[\d,]+\n/);
  expect(code).toBe(0);
});
