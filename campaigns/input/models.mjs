// Checkpoints and specs that do not fit: what a program is built from.
import { readFileSync } from "node:fs";
import { between, inherited, isTyped, pick, random, settled } from "../support.mjs";

const fixtures = new URL("../../test/fixtures/", import.meta.url);

/** Checkpoints of every architecture, of which these are the parameters. */
const golden = {
  lru_01_basic: { architecture: "lrnnx/lru" },
  ml_cls_01_mean_prenorm: {
    architecture: "minimal-lru/classification",
    prenorm: true,
    norm: "layer",
    pooling: "mean",
    multidim: 1,
  },
  ml_cls_05_batchnorm_eval: {
    architecture: "minimal-lru/classification",
    prenorm: false,
    norm: "batch",
    pooling: "mean",
    multidim: 1,
  },
  ml_seq_04_batchnorm_eval: { architecture: "minimal-lru/sequence-layer", prenorm: true, norm: "batch" },
  lm_01_tied_rms_1layer: { architecture: "lrnnx/language-model", normEpsilon: 1e-5 },
  lm_03_tied_rms_mlp_2layer: { architecture: "lrnnx/language-model", normEpsilon: 1e-5 },
  tf_lru_01_default: { architecture: "lruun/linear-recurrent-unit" },
  tf_res_01_default: { architecture: "lruun/res-lru" },
};
const notParameters = /^(x|y|y_.*|logits.*|input_ids|lengths.*|mid\..*|state.*|lambda_(re|im))$/;

function seeds(linrec) {
  const cases = JSON.parse(readFileSync(new URL("lrnnx/cases.json", fixtures), "utf8"));
  const files = [
    ...Object.entries(golden).map(([name, spec]) => [`golden/${name}`, spec]),
    ...cases.map(({ name, spec }) => [`lrnnx/${name}`, spec]),
  ];
  return files.map(([name, spec]) => {
    const { tensors } = linrec.readSafetensors(readFileSync(new URL(`${name}.safetensors`, fixtures)));
    return { name, spec, tensors: new Map([...tensors].filter(([key]) => !notParameters.test(key))) };
  });
}

const junk = [
  undefined,
  null,
  Number.NaN,
  -1,
  0,
  0.5,
  2,
  7,
  1e9,
  2 ** 53,
  Infinity,
  "",
  "mean",
  "max",
  "none",
  "batch",
  true,
  false,
];
const objects = [{}, [], [2, 3], ["max"], [-1], [[]], () => {}, Symbol("s"), 10n, new Proxy({}, {})];
const names = [
  "__proto__",
  "constructor",
  "architecture",
  "toString",
  "prenorm",
  "poolingFactor",
  "multidim",
  "causal",
  "unknown",
];
const architectures = [
  "minimal-lru/stacked-encoder",
  "lrnnx/classifier",
  "constructor",
  "",
  ...Object.values(golden).map(({ architecture }) => architecture),
];
const dtypes = {
  F32: Float32Array,
  F64: Float64Array,
  I32: Int32Array,
  U8: Uint8Array,
  F16: Uint16Array,
  BF16: Uint16Array,
};

/** A spec with a value replaced, an option added, or another architecture. */
function spoiledSpec(next, spec) {
  const kind = next();
  const value = pick(next, next() < 0.7 ? junk : objects);
  if (kind < 0.1) return value;
  if (kind < 0.3) return { ...spec, architecture: next() < 0.8 ? pick(next, architectures) : value };
  const name = next() < 0.6 ? pick(next, Object.keys(spec)) : pick(next, names);
  // As JSON.parse would make it, of "__proto__" too.
  return Object.defineProperty({ ...spec }, name, {
    value,
    enumerable: true,
    configurable: true,
    writable: true,
  });
}

/** One thing of the tensors is not as it should be. */
function spoilTensors(next, tensors) {
  const name = pick(next, [...tensors.keys()]);
  const tensor = tensors.get(name);
  const kind = next();
  if (kind < 0.15) return tensors.delete(name);
  if (kind < 0.3) {
    tensors.delete(name);
    return tensors.set(
      pick(next, [...names, `${name}x`, name.replace(/\d+/, "999999999"), name.split(".")[0]]),
      tensor,
    );
  }
  if (kind < 0.4) return tensors.set(pick(next, [...names, `${name}.`, `x.${name}`]), tensor);
  const shape = [...tensor.shape];
  if (kind < 0.5) return tensors.set(name, { ...tensor, shape: shape.reverse() });
  if (kind < 0.75) {
    const axis = between(next, 0, shape.length);
    shape.splice(axis, next() < 0.8 ? 1 : 0, pick(next, [0, 1, 2, 3, 5, 8, 12, 13]));
    const dtype = next() < 0.7 ? "F32" : pick(next, Object.keys(dtypes));
    const data = new dtypes[dtype](shape.reduce((product, size) => product * size, 1)).fill(1);
    return tensors.set(name, { dtype, shape, data });
  }
  const data = tensor.data.slice();
  for (let n = between(next, 1, 3); n > 0; n--)
    data[between(next, 0, data.length - 1)] = pick(next, [
      Number.NaN,
      Infinity,
      -Infinity,
      3e38,
      1e-45,
      -100,
      100,
      0,
    ]);
  return tensors.set(name, { ...tensor, data });
}

/** Bytes that typed arrays are made with between two looks at it. */
function countBytes() {
  const count = { bytes: 0 };
  for (const name of ["ArrayBuffer", "Float32Array", "Float64Array", "Int32Array", "Uint8Array"]) {
    globalThis[name] = new Proxy(globalThis[name], {
      construct(target, args, newTarget) {
        const made = Reflect.construct(target, args, newTarget === globalThis[name] ? target : newTarget);
        if (!(args[0] instanceof ArrayBuffer)) count.bytes += made.byteLength;
        return made;
      },
    });
  }
  return count;
}

export default {
  promise:
    "A model's tensors and spec that do not fit are refused by an error from the list: no hang, no polluted prototype, no memory beyond twice the file's; what is accepted runs.",
  how: "100,000 models: checkpoints of every architecture with tensors left out, renamed, misshapen, of another type or with values that are none, and specs with options replaced, added or of another architecture; as files with the spec inside, and as Maps.",
  plants: [
    {
      says: "a tensor that is missing is read",
      file: "src/models/tensors.ts",
      find: "this.#missing.push(name);",
      replace: "this.#missing.push((tensor as unknown as Tensor).dtype);",
    },
    {
      says: "an option's value is not looked at",
      file: "src/models/architecture.ts",
      find: "if (!own[known].accepts(value)) {",
      replace: 'if (!own[known].accepts(value) && name === "unknown") {',
    },
  ],
  async run({ linrec, isFull, fail }) {
    const cases = isFull ? 100_000 : 6000;
    const next = random(17);
    const engine = await linrec.createEngine({ backend: "wasm", threads: 0 });
    const all = seeds(linrec);
    const plain = inherited();
    const count = countBytes();
    let [refused, accepted, slowest, most] = [0, 0, 0, 0];
    const attempt = async (what, tensors, spec, file) => {
      const input = [...tensors.values()].reduce(
        (sum, { data }) => sum + data.byteLength,
        file?.byteLength ?? 4096,
      );
      let [outcome, ms] = [undefined, Infinity];
      // Others may be at work on the machine: what was slow is tried again.
      for (let tries = 0; tries < 3 && ms > 50; tries++) {
        count.bytes = 0;
        const start = performance.now();
        outcome = await settled(file ? engine.model(file) : engine.model(tensors, spec), 10_000);
        ms = Math.min(ms, performance.now() - start);
      }
      if (outcome === "late") return fail(`${what}: never settled`);
      if (outcome.error) {
        refused++;
        slowest = Math.max(slowest, ms);
        most = Math.max(most, count.bytes / input);
        if (!isTyped(linrec, outcome.error)) fail(`${what}: ${outcome.error?.stack}`);
        return false;
      }
      accepted++;
      const model = outcome.value;
      const x = model.vocabulary ? new Int32Array(24) : new Float32Array(24 * model.inputWidth).fill(0.5);
      const run = await settled(model.forward(x), 10_000);
      if (run === "late") fail(`${what}: its forward never settled`);
      else if (run.error && !isTyped(linrec, run.error)) fail(`${what}: its forward: ${run.error?.stack}`);
      model.dispose();
      return !run.error;
    };
    for (const { name, spec, tensors } of all)
      if (!(await attempt(name, tensors, spec))) fail(`${name}: it does not run as it is`);
    for (let i = 0; i < cases; i++) {
      const { name, ...seed } = pick(next, all);
      const tensors = new Map(seed.tensors);
      const isSpecSpoiled = next() < 0.5;
      const spec = isSpecSpoiled ? spoiledSpec(next, seed.spec) : seed.spec;
      for (let n = isSpecSpoiled ? between(next, 0, 1) : between(next, 1, 3); n > 0; n--)
        if (tensors.size > 0) spoilTensors(next, tensors);
      let file;
      if (i % 2 === 0) {
        try {
          file = linrec.writeSafetensors(tensors, { linrec: next() < 0.95 ? JSON.stringify(spec) : "{" });
        } catch {} // a spec that is no JSON, or a shape that its values do not fill
      }
      await attempt(`${i} of ${name}`, tensors, spec, file);
    }
    if (inherited() !== plain) fail("Object.prototype has changed");
    if (slowest > 100) fail(`a model took ${slowest.toFixed(0)} ms to refuse`);
    if (most > 2) fail(`a model that was refused took ${most.toFixed(1)} times its memory`);
    await engine.dispose();
    return {
      models: cases,
      "refused by name, accepted": `${refused}, ${accepted}`,
      "the slowest refusal, ms": slowest.toFixed(1),
      "the most memory of a refusal by the input's": most.toFixed(2),
    };
  },
};
