/** One LRU of lrnnx: what `engine.lru` reads by itself, and `engine.model` among others. */
import { LinrecError } from "../errors.js";
import { checkLruParams, programOf } from "../lruParams.js";
import { lruStages, type Network } from "../program.js";
import type { Tensor } from "../tensor.js";
import type { Architecture, Options } from "./architecture.js";
import { takeLru, tensorNames } from "./lru.js";
import { TensorReader } from "./tensors.js";

/** One layer, its eight tensors under any one prefix. */
export const lrnnxLru: Architecture = {
  name: "lrnnx/lru",
  options: [],

  infer(tensors) {
    const prefixes = prefixesOf(tensors.keys());
    // All names but one: there is theta_log or theta.
    const own = tensorNames.filter((name) => tensors.has(prefixes[0] + name));
    const exact =
      prefixes.length === 1 && tensors.size === own.length && own.length === tensorNames.length - 1;
    return exact ? {} : undefined;
  },

  build(reader) {
    const prefixes = prefixesOf(reader.names());
    if (prefixes.length > 1) {
      const list = prefixes.map((prefix) => `"${prefix}"`).join(", ");
      throw new LinrecError(
        "unknown-model",
        `lrnnx/lru is one layer, and this checkpoint has several, under ${list}. Read one with toLruParams(tensors, prefix), ` +
          "or both directions of a bidirectional layer with engine.bidirectional.",
      );
    }
    const prefix = prefixes[0] ?? "";
    const program = programOf(takeLru(reader, prefix), prefix.slice(0, -1) || "lru");
    reader.finish("lrnnx/lru");
    for (const stage of lruStages(program)) checkLruParams(stage.params, prefix);
    return program;
  },
};

/** What stands before an LRU's tensor names, each once: "" or text that ends in "." or "/". */
function prefixesOf(names: Iterable<string>): string[] {
  const prefixes = new Set<string>();
  for (const name of names) {
    const start = Math.max(name.lastIndexOf("."), name.lastIndexOf("/")) + 1;
    if (tensorNames.includes(name.slice(start))) prefixes.add(name.slice(0, start));
  }
  return [...prefixes];
}

/** What `buildProgram` makes of a checkpoint that is one LRU, whatever its metadata says. */
export function readLru({
  tensors,
  metadata = {},
}: {
  tensors: ReadonlyMap<string, Tensor>;
  metadata?: Readonly<Record<string, string>>;
}): Network {
  const reader = new TensorReader(tensors);
  return fromCheckpoint(lrnnxLru.build(reader, {} as Options), reader, metadata, {});
}

/** A program with what the way back to its checkpoint needs. */
export function fromCheckpoint(
  program: Network,
  reader: TensorReader,
  metadata: Readonly<Record<string, string>>,
  options: Readonly<Record<string, unknown>>,
): Network {
  const linrec = JSON.stringify({ architecture: program.architecture, ...options });
  const { origins: tensors, derived } = reader;
  return { ...program, checkpoint: { metadata: { ...metadata, linrec }, tensors, derived } };
}
