/** lrnnx's LRUUnet: LRU blocks between strided convolutions down and transposed ones up again, with skips. */
import type { Network } from "../program.js";
import { type Architecture, finished } from "./architecture.js";
import { layerNorm, listed, type Stages } from "./lrnnx.js";
import { takeLru } from "./lru.js";

/**
 * x [batch, seqLen, channels] -> y [batch, seqLen, channels out]. A convolution whose kernel is as wide as its stride is a
 * dense stage over rows of so many tokens. Rows are padded with zeros to a multiple of all strides together, and cropped.
 * `causal` delays what comes up by one row at each level; outputs still depend on up to one such multiple of later tokens.
 */
export const lrnnxUnet: Architecture = {
  name: "lrnnx/lru-unet",
  options: ["causal"],
  infer: (tensors) => (tensors.has("last_ssms.1.0.lru_layer.nu_log") ? {} : undefined),

  build(reader, { causal }): Network {
    const stages: Stages = [];
    const slots: number[] = [];
    const slot = (width: number) => slots.push(width) - 1;
    const channels = reader.size("last_ssms.1.0.lru_layer.D", 0);
    const c = channels ?? 0;

    /** An LRU, and with `act` a norm (of more than one channel) and SiLU. */
    const block = (prefix: string, src: number, width: number, act = true): number => {
      const dst = slot(width);
      const params = takeLru(reader, `${prefix}.0.lru_layer.`, channels && width);
      const dState = params.nuLog.length;
      stages.push({ kind: "lru", name: `${prefix}.0.lru_layer`, src, dst, dModel: width, dState, params });
      if (!act) return dst;
      if (width > 1) stages.push(layerNorm(reader, `${prefix}.1.norm`, dst, channels && width));
      stages.push({ kind: "glu", name: `${prefix}.silu`, src: dst, gate: dst, dst, width });
      return dst;
    };
    const dense = (
      name: string,
      src: number,
      kernel: Float32Array,
      bias: Float32Array | null,
      outWidth: number,
    ) => {
      const inWidth = slots[src] as number;
      const dst = slot(outWidth);
      stages.push({ kind: "dense", name, src, dst, inWidth, outWidth, kernel, bias });
      return dst;
    };
    const reshape = (name: string, src: number, outWidth: number): number => {
      const dst = slot(outWidth);
      stages.push({ kind: "reshape", name, src, dst, inWidth: slots[src] as number, outWidth });
      return dst;
    };

    const levels = listed(reader, "down_ssms.").map((prefix, level) => {
      const factor = reader.size(`${prefix}1.conv.weight`, 2) ?? 1;
      return { prefix, factor, width: c * 2 ** level };
    });
    const skips: number[] = [];
    let at = slot(c);
    for (const { prefix, factor, width } of levels) {
      skips.push(at);
      const rows = reshape(`${prefix}fold`, block(`${prefix}0`, at, width), width * factor);
      const name = `${prefix}1.conv`;
      // Of [out, in, k] [k, in, out], the rows of which are those of k tokens.
      const kernel = reader.take(
        `${name}.weight`,
        [2 * width || undefined, width || undefined, factor],
        [2, 1, 0],
      );
      at = dense(name, rows, kernel, reader.take(`${name}.bias`, [2 * width || undefined]), 2 * width);
    }
    const deepest = c * 2 ** levels.length;
    at = block("hid_ssms.1", block("hid_ssms.0", at, deepest), deepest);
    for (const [i, { factor, width }] of levels.reverse().entries()) {
      const prefix = `up_ssms.${i}`;
      const name = `${prefix}.0.deconv`;
      // Of [in, out, k] [in, k, out], the columns of which are those of k tokens.
      const kernel = reader.take(
        `${name}.weight`,
        [2 * width || undefined, width || undefined, factor],
        [0, 2, 1],
      );
      const bias = reader.take(`${name}.bias`, [width || undefined]);
      at = reshape(`${prefix}.unfold`, dense(name, at, kernel, bias, factor * width), width);
      if (causal) stages.push({ kind: "shift", name: `${prefix}.shift`, src: at, dst: at, width });
      const other = skips.pop() as number;
      stages.push({ kind: "add", name: `${prefix}.skip`, src: at, other, dst: at, width });
      at = block(`${prefix}.1`, at, width);
    }
    at = block("last_ssms.1", block("last_ssms.0", at, c), c, false);
    if (reader.has("final_proj.weight")) {
      const outWidth = reader.size("final_proj.weight", 0);
      const kernel = reader.take("final_proj.weight", [outWidth, channels, 1], [1, 0, 2]);
      at = dense("final_proj", at, kernel, null, outWidth ?? 0);
    }
    return finished(reader, { architecture: this.name, slots, stages, output: at });
  },
};
