// The golden cases on the CPU, with the built package, in whatever browser opens this: what test/golden.test.ts does, for engines
// that its test runner does not drive. Shown as JSON: how many were right, how near the worst came to its limit, what was wrong.
import { createEngine, readSafetensors, toFloat32, writeSafetensors } from "../../dist/index.js";

const folder = new URL("../fixtures/golden/", import.meta.url);
const isLayers = /^(nu_log|theta_log|gamma_log|[BC]_(re|im)|D)$/;
/** In a model's file, what is no parameter. */
const isOther = /^(x|y|y_.*|logits.*|input_ids|lengths.*|mid\..*|state.*)$/;
const architectures = {
  ml_classification: "minimal-lru/classification",
  ml_sequence_layer: "minimal-lru/sequence-layer",
  tf_lru: "lruun/linear-recurrent-unit",
  res_lru: "lruun/res-lru",
  lrnnx_lm: "lrnnx/language-model",
};

async function run() {
  const manifest = await (await fetch(new URL("manifest.json", folder))).json();
  const failures = [];
  let passed = 0;
  let worst = 0;
  const cases = [];
  for (const entry of manifest) {
    cases.push({ ...entry, bytes: await (await fetch(new URL(entry.file, folder))).arrayBuffer() });
  }
  const engines = [];
  for (const options of [{ threads: 0 }, { threads: 2 }, { threads: 0, simd: "baseline" }]) {
    const onFallback = ({ reason }) => failures.push(`${JSON.stringify(options)} fell back: ${reason}`);
    const engine = await createEngine({ backend: "wasm", onFallback, ...options });
    for (const golden of cases) {
      try {
        const share = await check(engine, golden);
        worst = Math.max(worst, share);
        if (share <= 1) passed++;
        else failures.push(`${golden.name} with ${JSON.stringify(options)}: ${share} of its limit`);
      } catch (error) {
        failures.push(`${golden.name} with ${JSON.stringify(options)}: ${error}`);
      }
    }
    engines.push(engine.backends.wasm.reason);
    await engine.dispose();
  }
  return { passed, worst, failures, engines };
}

/** The error of y, over what it may be. */
async function check(engine, { kind, bytes, config }) {
  const { tensors } = readSafetensors(bytes);
  const architecture = architectures[kind];
  const isParameter = architecture ? (name) => !isOther.test(name) : (name) => isLayers.test(name);
  const checkpoint = writeSafetensors(new Map([...tensors].filter(([name]) => isParameter(name))));
  const { prenorm, norm, pooling, multidim, norm_epsilon: normEpsilon } = config;
  // What a case does not have is undefined, and left out.
  const options = { prenorm, norm, pooling, multidim, normEpsilon };
  const layer = architecture
    ? await engine.model(checkpoint, { architecture, ...options })
    : await engine.lru(checkpoint);
  const state = layer.allocateInferenceCache(config.B);
  const start = architecture?.startsWith("lruun") ? "state0" : "h0";
  const [re, im] = [`${start}_re`, `${start}_im`].map((name) => tensors.get(name)?.data);
  if (re) architecture ? state.set([re], [im]) : state.set(re, im);
  const x = tensors.get("input_ids")?.data ?? toFloat32(tensors.get("x"));
  const { y } = await layer.forward(x, { batch: config.B, state });
  layer.dispose();
  const expected = (tensors.get("y") ?? tensors.get("logits")).data;
  const float32 = tensors.get("y_f32_forward")?.data ?? expected;
  const limit = architecture ? 1e-5 : Math.max(2 * errorOf(float32, expected), 8 * 2 ** -24);
  return errorOf(y, expected) / limit;
}

function errorOf(actual, expected) {
  let [error, scale] = [actual.length === expected.length ? 0 : Number.NaN, 0];
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(actual[i] - expected[i]);
    if (!(off <= error)) error = off;
    scale = Math.max(scale, Math.abs(expected[i]));
  }
  return error === 0 ? 0 : error / scale;
}

document.body.textContent = JSON.stringify(await run().catch((error) => ({ error: String(error) })));
