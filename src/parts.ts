/**
 * What many pages never want: loaded when it is first wanted. Each module of src/parts/ becomes a file beside the package's
 * first one, or a part of it where everything is in one file (esbuild.config.mjs does either, and says how).
 */
import { LinrecError, messageOf } from "./errors.js";

export const parts = {
  threads: later(() => import("./parts/threads.js")),
  webgpu: later(() => import("./parts/webgpu.js")),
  wide: later(() => import("./parts/wide.js")),
  sources: later(() => import("./parts/sources.js")),
  models: later(() => import("./parts/models.js")),
  reference: later(() => import("./parts/reference.js")),
  halves: later(() => import("./parts/halves.js")),
  bidirectional: later(() => import("./parts/bidirectional.js")),
  steps: later(() => import("./parts/steps.js")),
  stream: later(() => import("./parts/stream.js")),
};

/** Loads a part once. Rejects with `load-failed`; the next call tries again. */
export function later<Part>(load: () => Promise<Part>): () => Promise<Part> {
  let loading: Promise<Part> | undefined;
  const attempt = async () => {
    try {
      return await load();
    } catch (cause) {
      loading = undefined;
      throw new LinrecError(
        "load-failed",
        "A part of linrec could not be loaded. Service workers and audio worklets, where nothing can be loaded later, need " +
          `\`linrec/standalone\`; if linrec was deployed anew meanwhile, reload. (${messageOf(cause)})`,
        { cause },
      );
    }
  };
  return () => (loading ??= attempt());
}
