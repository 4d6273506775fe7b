/**
 * The exporters of docs/from-python.md, run as they stand by python3. What they import is stood in for by
 * support/python, which writes and refuses what the real packages do: nothing but Python itself need be installed.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { createEngine, toFloat32 } from "../src/index.js";
import { loadGolden, relativeError } from "./support/golden.js";

const folder = mkdtempSync(join(tmpdir(), "linrec-python-"));
afterAll(() => rmSync(folder, { recursive: true }));

const guide = readFileSync(new URL("../docs/from-python.md", import.meta.url), "utf8");
const snippets = [...guide.matchAll(/## ([^\n]*)\n(?:(?!\n## )[\s\S])*?```python\n(.*?)```/gs)].map(
  ([, title = "", code = ""]) => ({ title, code }),
);

/** Reads the golden parameters into `golden`, name -> (shape, values). */
const head = `
import json, math, sys
golden = {name: (shape, values) for name, shape, values in json.load(open(sys.argv[1]))}
`;

/** How the owner of such weights calls the exporter, for a golden case. */
const callers = [
  {
    framework: /PyTorch/,
    name: "lru_01_basic",
    call: `
from safetensors.torch import Parameter
class LRU:
    def state_dict(self):
        return {name: Parameter(*tensor) for name, tensor in golden.items()}
export(LRU(), sys.argv[2])`,
  },
  {
    framework: /PyTorch/,
    name: "lm_01_tied_rms_1layer",
    call: `
from safetensors.torch import Parameter
parameters = {name: Parameter(*tensor) for name, tensor in golden.items()}
parameters["lm_head.weight"] = parameters["backbone.embedding.weight"]  # tied: one tensor by two names
class Model:
    def state_dict(self):
        return parameters
export(Model(), sys.argv[2], "lrnnx/language-model", normEpsilon=1e-5)`,
  },
  {
    framework: /JAX/,
    name: "ml_cls_01_mean_prenorm",
    call: `
variables = {}
for name, tensor in golden.items():
    *path, leaf = name.replace("/", ".").split(".")
    place = variables
    for key in path:
        place = place.setdefault(key, {})
    place[leaf] = numpy.ndarray(*tensor)
export(variables, sys.argv[2], **json.loads(sys.argv[3]))`,
  },
  {
    framework: /NumPy/,
    name: "lru_01_basic",
    call: `
array = {name: numpy.ndarray(*tensor) for name, tensor in golden.items()}
def complex_array(name):
    re, im = array[name + "_re"], array[name + "_im"]
    return numpy.ndarray(re.shape, [complex(a, b) for a, b in zip(re.values, im.values)])
theta = numpy.ndarray(array["theta_log"].shape, [math.exp(value) for value in array["theta_log"].values])
export(sys.argv[2], array["nu_log"], theta, array["gamma_log"], complex_array("B"), complex_array("C"), array["D"])`,
  },
];

test("the guide has an exporter for each framework", () => {
  for (const { title } of snippets) expect(callers.some(({ framework }) => framework.test(title))).toBe(true);
  expect(snippets).toHaveLength(3);
});

test.for(callers)("$framework: $name", async ({ framework, name, call }, context) => {
  if (spawnSync("python3", ["--version"]).status !== 0)
    return context.skip("there is no python3 to run the snippet");
  const golden = await loadGolden(name);
  const { code } = snippets.find(({ title }) => framework.test(title)) as (typeof snippets)[number];
  const [weights, path] = [join(folder, "weights.json"), join(folder, `${name}.safetensors`)];
  const parameters = [...golden.checkpoint].map(([key, tensor]) => [
    key,
    tensor.shape,
    [...toFloat32(tensor)],
  ]);
  writeFileSync(weights, JSON.stringify(parameters));
  const args = ["-c", head + code + call, weights, path, JSON.stringify(golden.spec)];
  const PYTHONPATH = fileURLToPath(new URL("support/python", import.meta.url));
  const env = { ...process.env, PYTHONPATH, PYTHONDONTWRITEBYTECODE: "1" };
  const { status, stderr } = spawnSync("python3", args, { encoding: "utf8", env });
  expect(stderr).toBe("");
  expect(status).toBe(0);
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const model = await engine.model(readFileSync(path)); // the spec is in the file
  expect(model.architecture).toBe(golden.spec.architecture);
  const { y } = await model.forward(golden.input, { batch: golden.batch });
  expect(relativeError(y, golden.y)).toBeLessThanOrEqual(1e-5);
  await engine.dispose();
});
