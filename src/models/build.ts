/** From a checkpoint's tensors to a program: which architecture it is, and its options. */
import { LinrecError, messageOf } from "../errors.js";
import { withRates } from "../networks/rateChanges.js";
import type { Network } from "../program.js";
import { type Tensor, typeName } from "../tensor.js";
import { type Architecture, type ModelSpec, resolveOptions } from "./architecture.js";
import { languageModel } from "./languageModel.js";
import { lrnnxClassifier } from "./lrnnxClassifier.js";
import { fromCheckpoint, lrnnxLru } from "./lrnnxLru.js";
import { lrnnxUnet } from "./lrnnxUnet.js";
import { linearRecurrentUnit, resLru } from "./lruun.js";
import { classification, sequenceLayer, stackedEncoder } from "./minimalLru.js";
import { TensorReader } from "./tensors.js";

/** A new architecture is one more line here. Inference asks in this order. */
const architectures: readonly Architecture[] = [
  lrnnxLru,
  classification,
  stackedEncoder,
  sequenceLayer,
  languageModel,
  linearRecurrentUnit,
  resLru,
  lrnnxClassifier,
  lrnnxUnet,
];

/**
 * The program that a checkpoint's tensors make up. Sizes come from the tensors; the architecture and its options from
 * `spec`, else from the JSON in `metadata.linrec`, else from the tensors' names where they leave no doubt.
 *
 * Throws `unknown-model` (names every tensor that is missing, misshapen or left over), `invalid-argument` (an unknown
 * architecture or option), `malformed-file` (bad JSON in the metadata), `non-finite` and `unstable` (bad values).
 */
export function buildProgram(
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>> = {},
  spec?: ModelSpec,
): Network {
  const { architecture, ...options } =
    spec === undefined ? (storedSpec(metadata) ?? inferredSpec(tensors)) : checkSpec(spec);
  const known = architectures.find(({ name }) => name === architecture);
  if (!known) {
    throw new LinrecError(
      "invalid-argument",
      `There is no architecture "${architecture}"; known are ${knownNames()}.`,
    );
  }
  const resolved = resolveOptions(known, options);
  const reader = new TensorReader(tensors);
  const program = known.build(reader, resolved);
  const full = Object.fromEntries(known.options.map((name) => [name, resolved[name]]));
  return withRates(fromCheckpoint(program, reader, metadata, full));
}

function checkSpec(spec: unknown): ModelSpec {
  const { architecture } = (spec ?? {}) as Partial<ModelSpec>;
  if (typeof spec !== "object" || typeof architecture !== "string") {
    const came =
      typeof spec === "object" ? `architecture is ${typeName(architecture)}` : `got ${typeName(spec)}`;
    throw new LinrecError(
      "invalid-argument",
      `A model spec is { architecture, ...options }; ${came}. Known are ${knownNames()}.`,
    );
  }
  return spec as ModelSpec;
}

function storedSpec(metadata: Readonly<Record<string, string>>): ModelSpec | undefined {
  const json = Object.hasOwn(metadata, "linrec") ? metadata["linrec"] : undefined;
  if (json === undefined) return undefined;
  try {
    return checkSpec(JSON.parse(json));
  } catch (cause) {
    throw new LinrecError(
      "malformed-file",
      `The metadata entry "linrec" does not hold a model spec; pass a spec to override it. ${messageOf(cause)}`,
      { cause },
    );
  }
}

function inferredSpec(tensors: ReadonlyMap<string, Tensor>): ModelSpec {
  for (const architecture of architectures) {
    const options = architecture.infer(tensors);
    if (options) return { architecture: architecture.name, ...options };
  }
  const names = [...tensors.keys()];
  const came = names.length
    ? `${names.length} tensors, ${names.slice(0, 4).join(", ")}${names.length > 4 ? ", ..." : ""}`
    : "no tensors";
  throw new LinrecError(
    "unknown-model",
    `The checkpoint has ${came}: these names fit no architecture without doubt. Pass a spec, { architecture, ...options }, ` +
      `with one of ${knownNames()}.`,
  );
}

function knownNames(): string {
  return architectures.map(({ name }) => name).join(", ");
}
