/** A whole network: four minimal-LRU layers (pre-norm, layer norm, GELU, GLU, residual) behind a dense encoder. */
import { createEngine, initLru, writeSafetensors } from "../linrec.mjs";
import { measurePeak } from "../peak.mjs";
import { walk } from "../pieces.mjs";
import { fillInput, relativeError } from "../shapes.mjs";
import { inTurns, openCalm, sayCalm } from "./timing.mjs";

const [H, N, LAYERS] = [64, 64, 4];
/** Tokens of a piece (../pieces.mjs): some 5 ms, of which there are calm ones where no whole forward is. */
const PIECE = 1024;
const SPEC = { architecture: "minimal-lru/stacked-encoder", prenorm: true, norm: "layer" };

/** Products, scans and skips exactly; norm and addition as 6, GELU and GLU as 24 a value, as the library counts. */
const PRODUCTS = 2 * H * H + LAYERS * (8 * H * N + 8 * N + 2 * H + 2 * 2 * H * H);
const FLOPS_A_TOKEN = PRODUCTS + LAYERS * H * (6 + 24 + 24 + 6);

/** For bench/gpu. */
export const stackModel = { bytes: checkpoint, spec: SPEC, flopsPerToken: FLOPS_A_TOKEN };

const tensorNames = {
  ...{ nuLog: "nu_log", thetaLog: "theta_log", gammaLog: "gamma_log" },
  ...{ BRe: "B_re", BIm: "B_im", CRe: "C_re", CIm: "C_im" },
};

export async function measure({ quick, peakKernels, best }) {
  const [seqLen, tokens] = quick ? [512, 128] : [16384, PIECE];
  const bytes = checkpoint();
  const error = await check(bytes);
  const engines = [];
  const ways = {};
  let piece;
  for (const threads of [0, 2]) {
    const engine = await createEngine({ backend: "wasm", threads });
    const model = await engine.model(bytes, SPEC);
    const x = fillInput(engine.allocate(seqLen * H));
    const out = engine.allocate(seqLen * H);
    engines.push(engine);
    ways[threads] = () => model.forward(x, { out });
    // Of the calling thread, which comes first.
    piece ??= walk((...given) => model.forward(...given), x, out, { batch: 1, seqLen, dModel: H }, tokens);
  }
  const calmness = await openCalm(peakKernels, best, 2);
  const before = process.memoryUsage.rss();
  const { ms, calm } = await inTurns(ways, quick ? 1 : 7, quick ? 5 : 300, calmness);
  const extraBytes = process.memoryUsage.rss() - before;
  const ofOne = await openCalm(peakKernels, best, 1);
  const taken = await inTurns({ piece }, quick ? 1 : 7, quick ? 5 : 2000, ofOne);
  const inPieces = { ms: (taken.ms.piece * seqLen) / tokens, calm: taken.calm };
  const peak = await measurePeak(peakKernels.relaxed, 1, quick ? 20 : 300);
  for (const engine of engines) await engine.dispose();
  const shareOf = (flopsPerToken, ms) => (seqLen * flopsPerToken) / ms / 1e6 / peak;
  const [share, shareOfProducts] = [shareOf(FLOPS_A_TOKEN, ms[0]), shareOf(PRODUCTS, ms[0])];
  const lines = [
    `${seqLen} tokens: calling thread ${ms[0].toFixed(2)} ms (${percent(share)} of the peak over all its flops, ` +
      `${percent(shareOfProducts)} over those of products and scans alone), 2 threads ${ms[2].toFixed(2)} ms ` +
      `(${(ms[0] / ms[2]).toFixed(2)} times); error ${error.toExponential(1)}; ${sayCalm(calm)}`,
    `in pieces of ${tokens} tokens, calling thread: ${inPieces.ms.toFixed(2)} ms ` +
      `(${percent(shareOf(FLOPS_A_TOKEN, inPieces.ms))} of the peak over all its flops); ${sayCalm(inPieces.calm)}`,
  ];
  return {
    seqLen,
    ms,
    calm,
    inPieces,
    peak,
    share,
    shareOfProducts,
    error,
    extraBytes,
    lines,
  };
}

async function check(bytes) {
  const x = fillInput(new Float32Array(100 * H));
  const results = [];
  for (const backend of ["wasm", "reference"]) {
    const engine = await createEngine({ backend });
    results.push((await (await engine.model(bytes, SPEC)).forward(x)).y);
    await engine.dispose();
  }
  const error = relativeError(...results);
  if (!(error < 1e-3)) throw new Error(`the model is wrong: its error is ${error}`);
  return error;
}

/** Parameters of the right sizes; their values do not matter to the time, but numbers must stay normal. */
function checkpoint() {
  const tensors = {};
  const put = (name, shape, data) => {
    tensors[name] = { dtype: "F32", shape, data };
  };
  const noise = (length, scale) => fillInput(new Float32Array(length)).map((value) => scale * value);
  const dense = (name) => {
    put(`${name}.kernel`, [H, H], noise(H * H, 0.2));
    put(`${name}.bias`, [H], noise(H, 0.1));
  };
  dense("encoder");
  for (let layer = 0; layer < LAYERS; layer++) {
    const prefix = `layers_${layer}`;
    const lru = initLru({ dModel: H, dState: N, rMin: 0.9, rMax: 0.999, seed: layer });
    for (const [name, data] of Object.entries(lru)) {
      const shape = { B: [N, H], C: [H, N] }[name[0]] ?? [data.length];
      put(`${prefix}.seq.${tensorNames[name] ?? name}`, shape, data);
    }
    put(`${prefix}.normalization.scale`, [H], new Float32Array(H).fill(1));
    put(`${prefix}.normalization.bias`, [H], new Float32Array(H));
    dense(`${prefix}.out1`);
    dense(`${prefix}.out2`);
  }
  return writeSafetensors(tensors);
}

const percent = (part) => `${(100 * part).toFixed(0)} %`;
