/**
 * `npm run test:python`: linrec beside the frameworks themselves. Networks with the parameters of lrnnx, minimal-LRU and lruun are
 * built in PyTorch, JAX, Keras and TensorFlow, exported by the guide's own snippets, read and run by linrec, written again by `writeModel`,
 * and loaded again by the framework: outputs within the limits that hold everywhere, tensors the same to the bit. Also whether
 * the installed safetensors library still gives the verdicts of test/fixtures/safetensors-verdicts.json.
 *
 * PYTHON names the Python (python3). Exit code 0: all of it ran and holds; 1: something does not; 2: something was skipped.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createEngine, writeModel } from "../../dist/index.js";

const PYTHON = process.env.PYTHON ?? "python3";
const here = fileURLToPath(new URL(".", import.meta.url));
/** The README's promise: of whole models, and of linear outputs beside twice a plain float32 loop's. */
const MODEL_LIMIT = 1e-5;
const LINEAR_LIMIT = 8 * 2 ** -24;

const tally = { ok: 0, failed: 0, skipped: 0 };
const say = (what, name, text) => {
  tally[what]++;
  console.log(`  ${what.padEnd(8)}${name}${text ? `: ${text}` : ""}`);
};

const parts = [
  ["PyTorch (lrnnx)", ["torch", "safetensors", "numpy"], () => framework("with_torch.py")],
  ["JAX (minimal-LRU)", ["jax", "flax", "safetensors", "numpy"], () => framework("with_jax.py")],
  [
    "Keras (lruun)",
    ["keras", "h5py", process.env.KERAS_BACKEND ?? "torch", "numpy"],
    () => framework("with_keras.py"),
  ],
  ["TensorFlow (lruun)", ["tensorflow", "keras", "h5py", "numpy"], () => framework("with_tensorflow.py")],
  ["the reference safetensors library", ["safetensors", "numpy"], verdicts],
];
for (const [title, packages, check] of parts) {
  console.log(title);
  const missing = packages.filter((name) => !has(name));
  if (missing.length > 0) say("skipped", title, `no ${missing.join(", no ")}`);
  else await check();
}
console.log(`${tally.ok} ok, ${tally.failed} failed, ${tally.skipped} skipped`);
if (tally.skipped)
  console.log("pip install -r test/python/requirements.txt, and PYTHON=path/to/python npm run test:python");
process.exitCode = tally.failed ? 1 : tally.skipped ? 2 : 0;

/** Found, not imported: that takes seconds. */
function has(name) {
  return (
    python("-c", `import importlib.util, sys; sys.exit(not importlib.util.find_spec("${name}"))`).status === 0
  );
}

function python(...args) {
  const env = {
    ...process.env,
    PYTHONDONTWRITEBYTECODE: "1",
    JAX_PLATFORMS: "cpu",
    TF_CPP_MIN_LOG_LEVEL: "3",
  };
  return spawnSync(PYTHON, args, { encoding: "utf8", env, maxBuffer: 2 ** 26 });
}

/** stdout of a script beside this file, or undefined after saying how it failed. */
function script(name, ...args) {
  const { status, stdout, stderr, error } = python(join(here, name), ...args);
  if (status === 0) return stdout;
  say("failed", [name, ...args].join(" "), error?.message ?? `exit code ${status}\n${stdout}${stderr}`);
}

async function framework(name) {
  const folder = mkdtempSync(join(tmpdir(), "linrec-python-"));
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  try {
    if (script(name, "make", folder) === undefined) return;
    const { versions, cases } = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
    console.log(
      `  ${Object.entries(versions)
        .map((pair) => pair.join(" "))
        .join(", ")}`,
    );
    const errors = [];
    for (const item of cases) errors.push(await forthAndBack(engine, folder, item));
    const checked = script(name, "check", folder);
    if (checked === undefined) return;
    const results = JSON.parse(checked.trim().split("\n").at(-1));
    for (const [i, { name, plain, ownError }] of cases.entries()) {
      const { tensors, found } = results[name];
      const limit = plain === undefined ? MODEL_LIMIT : Math.max(2 * plain, LINEAR_LIMIT);
      const [error, shown] = [errors[i], (value) => value.toExponential(1)];
      if (!(error <= limit))
        found.push(
          `its error is ${shown(error)}, more than ${shown(limit)} (the framework's own: ${shown(ownError)})`,
        );
      const text = `error ${shown(error)} of ${shown(limit)} (the framework's own: ${shown(ownError)}), ${tensors} tensors back`;
      say(found.length ? "failed" : "ok", name, found.length ? found.join("; ") : text);
    }
  } finally {
    await engine.dispose();
    rmSync(folder, { recursive: true });
  }
}

/** linrec reads, runs and writes a network: NAME.safetensors to NAME.back.safetensors. Gives the largest error by the largest |y|. */
async function forthAndBack(engine, folder, { name, ids, batch, architecture }) {
  const file = (ending) => join(folder, `${name}.${ending}`);
  const numbers = (ending, Type) => new Type(new Uint8Array(readFileSync(file(ending))).buffer);
  const model = await engine.model(readFileSync(file("safetensors")));
  if (model.architecture !== architecture) throw new Error(`${name} was read as ${model.architecture}`);
  const { y } = await model.forward(numbers("x", ids ? Int32Array : Float32Array), { batch });
  writeFileSync(file("back.safetensors"), writeModel(model));
  const expected = numbers("y", Float64Array);
  if (y.length !== expected.length) throw new Error(`${name}: ${y.length} outputs, not ${expected.length}`);
  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return largest(expected.map((value, i) => y[i] - value)) / largest(expected);
}

function verdicts() {
  const stdout = script("safetensors_verdicts.py", "--check");
  if (stdout !== undefined) say("ok", stdout.trim());
}
