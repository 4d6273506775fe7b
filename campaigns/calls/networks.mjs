// Layers and models at random: what a user may bring. In browsers they are the same to the bit,
// as nothing but sums, products and square roots makes them.
import { between, floats, pick } from "../random.mjs";

/** Tensors by name, filled as their source would call them. */
class Checkpoint {
  tensors = new Map();
  constructor(next) {
    this.next = next;
  }

  put(name, shape, data) {
    this.tensors.set(name, { dtype: "F32", shape, data });
  }

  add(name, shape, magnitude, offset = 0) {
    const length = shape.reduce((a, b) => a * b, 1);
    const data = floats(length, between(this.next, 0, 2 ** 30), magnitude).map((value) => value + offset);
    this.put(name, shape, data);
  }

  /** [out, inputs] as PyTorch has it, or [inputs, out] as Flax and Keras do. */
  dense(name, inputs, out, { weight = "kernel", bias = true } = {}) {
    const shape = weight === "kernel" ? [inputs, out] : [out, inputs];
    this.add(`${name}.${weight}`, shape, 1.5 / Math.sqrt(inputs));
    if (bias) this.add(`${name}.bias`, [out], 0.3);
  }

  norm(name, width, [scale, bias] = ["weight", "bias"]) {
    this.add(`${name}.${scale}`, [width], 0.4, 1);
    if (bias) this.add(`${name}.${bias}`, [width], 0.3);
  }

  lru(prefix, dModel, dState) {
    const params = layer(this.next, dModel, dState);
    for (const [name, data] of Object.entries(params)) {
      const shape = { B: [dState, dModel], C: [dModel, dState] }[name[0]] ?? [data.length];
      const snake = name.replace(/(Log|Re|Im)$/, (part) => `_${part.toLowerCase()}`);
      this.put(prefix + snake, shape, data);
    }
  }
}

/** |lambda| 0.3 to 0.999, phases 0 and pi among others; sometimes in conjugate pairs, which run as half a layer. */
function layer(next, dModel, dState) {
  const of = (length, magnitude) => floats(length, between(next, 0, 2 ** 30), magnitude);
  const nuLog = Float32Array.from({ length: dState }, () => 7.2 * next() - 7);
  const params = {
    nuLog,
    gammaLog: nuLog.map((nu) => 0.5 * nu + 0.3),
    BRe: of(dState * dModel, 1 / Math.sqrt(dModel)),
    BIm: of(dState * dModel, 1 / Math.sqrt(dModel)),
    CRe: of(dModel * dState, 1 / Math.sqrt(dState)),
    CIm: of(dModel * dState, 1 / Math.sqrt(dState)),
    D: of(dModel, 1),
  };
  const kind = next();
  if (kind < 0.4)
    return { ...params, thetaLog: Float32Array.from({ length: dState }, () => 5.8 * next() - 4) };
  const phase = () => pick(next, [0, Math.PI, -1, 6.28 * next(), next()]);
  const theta = Float32Array.from({ length: dState }, phase);
  if (kind < 0.7) pair({ theta, ...params }, dModel, dState);
  return { theta, ...params };
}

/** Makes every second state the conjugate of the one before it. */
function pair({ nuLog, theta, gammaLog, BRe, BIm, CRe, CIm }, dModel, dState) {
  for (let n = 0; n + 1 < dState; n += 2) {
    for (const values of [nuLog, gammaLog]) values[n + 1] = values[n];
    theta[n] ||= 1;
    theta[n + 1] = -theta[n];
    for (let i = 0; i < dModel; i++) {
      BRe[(n + 1) * dModel + i] = BRe[n * dModel + i];
      BIm[(n + 1) * dModel + i] = -BIm[n * dModel + i];
      CRe[i * dState + n + 1] = CRe[i * dState + n];
      CIm[i * dState + n + 1] = -CIm[i * dState + n];
    }
  }
}

// Layer norms over a few features make more of the last bit of x than any gate is wide.
const width = (next) => (next() < 0.9 ? between(next, 5, 12) : pick(next, [16, 31, 48, 65]));
const states = (next) => (next() < 0.9 ? between(next, 1, 11) : pick(next, [16, 30, 67]));

const makers = {
  lru: (next) => ({ params: layer(next, pick(next, [1, 2, 3, 4, 7, 8, 9, 16]), between(next, 1, 20)) }),

  classifier(next) {
    const made = new Checkpoint(next);
    const h = width(next);
    const blocks = between(next, 1, 3);
    const linear = { weight: "weight" };
    const input = pick(next, ["features", "features", "ids", "projected ids"]);
    const own = input === "ids" ? h : between(next, 1, 4);
    if (input !== "features") made.add("embedding.token_embedding.weight", [between(next, 3, 9), own], 1);
    if (input !== "ids") made.dense(input === "features" ? "input_proj" : "embed_proj", own, h, linear);
    for (let i = 0; i < blocks; i++) {
      const prefix = i === blocks - 1 ? "final_block." : `blocks.${i}.`;
      made.lru(`${prefix}lrnn.`, h, states(next));
      made.norm(`${prefix}norm`, h);
    }
    made.dense("final_block.output_proj", h, between(next, 1, 5), linear);
    const each = (choose) => Array.from({ length: blocks }, choose);
    return {
      tensors: made.tensors,
      spec: {
        architecture: "lrnnx/classifier",
        pooling: pick(next, ["last", "mean", "max"]),
        intermediatePooling: each(() => pick(next, ["none", "none", "stride", "mean", "max"])),
        poolingFactor: each(() => between(next, 1, 4)),
        embedded: input !== "features" && next() < 0.3,
      },
    };
  },

  languageModel(next) {
    const made = new Checkpoint(next);
    const [h, vocabulary] = [width(next), between(next, 4, 20)];
    const names = pick(next, [["weight"], ["weight", "bias"]]);
    made.add("backbone.embedding.weight", [vocabulary, h], 1);
    for (let i = between(next, 0, 2); i >= 0; i--) {
      const prefix = `backbone.layers.${i}`;
      made.norm(`${prefix}.norm`, h, names);
      made.lru(`${prefix}.mixer.`, h, states(next));
      if (next() < 0.3) continue;
      const hidden = between(next, 3, 12);
      made.norm(`${prefix}.norm2`, h, names);
      made.add(`${prefix}.mlp.fc1.weight`, [2 * hidden, h], 1 / Math.sqrt(h));
      made.add(`${prefix}.mlp.fc2.weight`, [h, hidden], 1 / Math.sqrt(hidden));
    }
    made.norm("backbone.norm_f", h, names);
    if (next() < 0.5) made.add("lm_head.weight", [vocabulary, h], 1 / Math.sqrt(h));
    return { tensors: made.tensors, spec: { architecture: "lrnnx/language-model" } };
  },

  minimalLru(next) {
    const made = new Checkpoint(next);
    const h = width(next);
    const norm = pick(next, ["batch", "layer"]);
    made.dense("encoder.encoder", between(next, 1, 4), h);
    for (let i = between(next, 0, 1); i >= 0; i--) {
      const prefix = `encoder.layers_${i}.`;
      made.lru(`${prefix}seq.`, h, states(next));
      made.norm(`${prefix}normalization`, h, ["scale", "bias"]);
      if (norm === "batch") {
        made.add(`batch_stats.${prefix}normalization.mean`, [h], 0.5);
        made.add(`batch_stats.${prefix}normalization.var`, [h], 0.5, 1);
      }
      for (const name of ["out1", "out2"]) made.dense(prefix + name, h, h);
    }
    const [groups, multidim] = [between(next, 1, 3), between(next, 1, 3)];
    made.dense("decoder", h, groups * multidim);
    const spec = {
      architecture: "minimal-lru/classification",
      prenorm: next() < 0.5,
      norm,
      pooling: pick(next, ["none", "none", "mean", "last"]),
      multidim,
    };
    return { tensors: made.tensors, spec };
  },

  resLru(next) {
    const made = new Checkpoint(next);
    const [h, n] = [width(next), states(next)];
    made.dense("adapter", between(next, 1, 4), h);
    made.norm("norm", h, ["gamma", "beta"]);
    const { nuLog, gammaLog, thetaLog, theta = thetaLog, BRe, BIm, CRe, CIm, D } = layer(next, h, n);
    const vectors = { lambda_nu: nuLog, lambda_theta: theta, gamma_log: gammaLog, D };
    for (const [name, data] of Object.entries(vectors)) made.put(`lru.${name}`, [data.length], data);
    for (const [name, data] of Object.entries({ B_re: BRe, B_im: BIm }))
      made.put(`lru.${name}`, [h, n], data);
    for (const [name, data] of Object.entries({ C_re: CRe, C_im: CIm }))
      made.put(`lru.${name}`, [n, h], data);
    for (const name of ["glu.w_1", "glu.w_3"]) made.dense(name, h, h);
    return { tensors: made.tensors, spec: { architecture: "lruun/res-lru" } };
  },

  unet(next) {
    const made = new Checkpoint(next);
    const channels = between(next, 5, 6);
    const factors = Array.from({ length: between(next, 1, 2) }, () => between(next, 1, 4));
    const block = (prefix, size) => {
      made.lru(`${prefix}.0.lru_layer.`, size, size);
      if (prefix !== "last_ssms.1") made.norm(`${prefix}.1.norm`, size);
    };
    const conv = (name, shape, bias) => {
      made.add(`${name}.weight`, shape, 1 / Math.sqrt(shape[1]));
      made.add(`${name}.bias`, [bias], 0.3);
    };
    for (const [i, factor] of factors.entries()) {
      const size = channels * 2 ** i;
      const up = `up_ssms.${factors.length - 1 - i}`;
      block(`down_ssms.${i}.0`, size);
      conv(`down_ssms.${i}.1.conv`, [2 * size, size, factor], 2 * size);
      conv(`${up}.0.deconv`, [2 * size, size, factor], size);
      block(`${up}.1`, size);
    }
    for (const i of [0, 1]) block(`hid_ssms.${i}`, channels * 2 ** factors.length);
    for (const i of [0, 1]) block(`last_ssms.${i}`, channels);
    return { tensors: made.tensors, spec: { architecture: "lrnnx/lru-unet", causal: next() < 0.7 } };
  },

  bidirectional(next) {
    const dModel = pick(next, [1, 2, 3, 4, 7, 8, 9]);
    return {
      ways: { forward: layer(next, dModel, states(next)), backward: layer(next, dModel, states(next)) },
    };
  },
};

export const kinds = Object.keys(makers);

/** A layer's parameters, those of a bidirectional one, or a model's tensors and how to read them. */
export function randomNetwork(next, kind = pick(next, [...kinds, "lru", "classifier"])) {
  // These read rows from both ends, or in pieces that are joined: there is no step.
  return { kind, whole: kind === "unet" || kind === "bidirectional", ...makers[kind](next) };
}

/** @param file what writeModel made of it, to be read instead */
export function openNetwork(engine, { params, ways, tensors, spec }, file) {
  if (params) return engine.lru(file ?? params);
  if (ways) return engine.bidirectional(file ?? ways);
  return file ? engine.model(file) : engine.model(tensors, spec);
}
