/** examples/lruun/export.py, on objects that hold golden weights in the attributes in which lruun's layers hold theirs. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { createEngine } from "../src/index.js";
import { loadGolden, relativeError } from "./support/golden.js";

const folder = mkdtempSync(join(tmpdir(), "linrec-"));
afterAll(() => rmSync(folder, { recursive: true }));

const python = (source: string, ...args: string[]) =>
  spawnSync("python3", ["-c", source, ...args], {
    encoding: "utf8",
    env: {
      ...process.env,
      PYTHONPATH: fileURLToPath(new URL("../examples/lruun", import.meta.url)),
      PYTHONDONTWRITEBYTECODE: "1",
    },
  });

/** Reads a golden file into such objects; an attribute is named as lruun names it, and not as the file does. */
const source = `
import json, struct, sys
from types import SimpleNamespace as Layer
import numpy as np
from export import export
data = open(sys.argv[1], "rb").read()
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8 : 8 + size])
def value(name):
    start, end = header[name]["data_offsets"]
    return np.frombuffer(data[8 + size + start : 8 + size + end], "<f4").reshape(header[name]["shape"])
def lru(prefix):
    own = {"lambda_nu": "nu", "lambda_theta": "theta"}
    names = ["lambda_nu", "lambda_theta", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D"]
    return Layer(adapter=lambda x: x, **{own.get(n, n): value(prefix + n) for n in names})
def dense(name):
    return Layer(kernel=value(name + ".kernel"), bias=value(name + ".bias"))
if "lru.D" in header:
    layer = Layer(adapter=lambda x: x, lru=lru("lru."), norm=Layer(gamma=value("norm.gamma"), beta=value("norm.beta")),
                  glu=Layer(w_1=dense("glu.w_1"), w_3=dense("glu.w_3")))
else:
    layer = lru("")
export(Layer(cell=layer), sys.argv[2])
`;

test.for(["tf_lru_01_default", "tf_res_01_default"])("%s", async (name, context) => {
  if (python("import numpy").status !== 0) return context.skip("there is no python3 with NumPy");
  const golden = await loadGolden(name);
  const path = join(folder, `${name}.safetensors`);
  const fixture = fileURLToPath(new URL(`fixtures/golden/${name}.safetensors`, import.meta.url));
  const { status, stderr } = python(source, fixture, path);
  expect(stderr).toBe("");
  expect(status).toBe(0);
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const model = await engine.model(readFileSync(path));
  expect(model.architecture).toBe(golden.spec.architecture);
  const { y } = await model.forward(golden.x, { batch: golden.batch });
  expect(relativeError(y, golden.y)).toBeLessThanOrEqual(1e-5);
  await engine.dispose();
});
