/** What an architecture is: a name, its options, and a way from a checkpoint's tensors to a network. */
import { LinrecError } from "../errors.js";
import { checkLruParams } from "../lruParams.js";
import { lruStages, type Network } from "../program.js";
import type { Tensor } from "../tensor.js";
import { show } from "../validate.js";
import type { TensorReader } from "./tensors.js";

/** How to read a checkpoint: an architecture's name and its options, each with a default. JSON in `__metadata__.linrec`. */
export interface ModelSpec {
  readonly architecture: string;
  /** Normalise before the LRU (true) or after the residual sum (false, the default). */
  readonly prenorm?: boolean | undefined;
  /** "batch" (running statistics; the default) or "layer". */
  readonly norm?: "batch" | "layer" | undefined;
  /**
   * One output for each sequence, from its "mean" (the default of minimal-lru) or "last" token (the default of lrnnx), from
   * the "max" of all of them (lrnnx only), or "none": one for each token (minimal-lru only).
   */
  readonly pooling?: "mean" | "last" | "max" | "none" | undefined;
  /** After each block, of windows of `poolingFactor` tokens: "mean", "max", "stride" (the first), or "none" (the default). One for all, or one for each. */
  readonly intermediatePooling?: WindowPooling | readonly WindowPooling[] | undefined;
  /** 2; one for all blocks, or one for each. */
  readonly poolingFactor?: number | readonly number[] | undefined;
  /** Where there is a table of embeddings x are already such, float32 [batch, seqLen, width], and no ids; false (the default). */
  readonly embedded?: boolean | undefined;
  /** What comes up in a U-Net is one row late at each level (true, the default). */
  readonly causal?: boolean | undefined;
  /** Log-softmax runs over groups of this many outputs; 1 (the default): over all of them. */
  readonly multidim?: number | undefined;
  /** The epsilon of every norm of a language model; 1e-5 (the default). */
  readonly normEpsilon?: number | undefined;
}

/** What becomes of a window of tokens. */
export type WindowPooling = "none" | "stride" | "mean" | "max";

export type Options = {
  [Name in Exclude<keyof ModelSpec, "architecture">]-?: Exclude<ModelSpec[Name], undefined>;
};
type OptionName = keyof Options;
type Tensors = ReadonlyMap<string, Tensor>;

export interface Architecture {
  readonly name: string;
  readonly options: readonly OptionName[];
  /** For options that are not here what they are elsewhere. */
  readonly rules?: Partial<Rules>;
  /** The options when the names of the tensors can be nothing but this architecture, else undefined. */
  infer(tensors: Tensors): Partial<Options> | undefined;
  /** Takes every tensor from the reader, and ends with {@link finished}. */
  build(reader: TensorReader, options: Options): Network;
}

interface Rule<T> {
  readonly initial: T;
  readonly expected: string;
  readonly accepts: (value: unknown) => boolean;
}

type Rules = { readonly [K in OptionName]: Rule<Options[K]> };

export function oneOf<T extends string>(...values: [T, ...T[]]): Rule<T> {
  const expected = values.map((value) => `"${value}"`).join(" or ");
  return { initial: values[0], expected, accepts: (value) => values.some((allowed) => allowed === value) };
}

function flag(initial: boolean): Rule<boolean> {
  return { initial, expected: "true or false", accepts: (value) => typeof value === "boolean" };
}

function oneOrList<T>({ initial, expected, accepts }: Rule<T>): Rule<T | readonly T[]> {
  return {
    initial,
    expected: `${expected}, or a list of these`,
    accepts: (value) => (Array.isArray(value) ? [...value].every(accepts) : accepts(value)),
  };
}

const count: Rule<number> = {
  initial: 1,
  expected: "an integer of at least 1",
  accepts: (value) => Number.isSafeInteger(value) && Number(value) >= 1,
};

const rules: Rules = {
  prenorm: flag(false),
  norm: oneOf("batch", "layer"),
  pooling: oneOf("mean", "last", "none"),
  multidim: count,
  intermediatePooling: oneOrList<WindowPooling>(oneOf("none", "stride", "mean", "max")),
  poolingFactor: oneOrList({ ...count, initial: 2 }),
  embedded: flag(false),
  causal: flag(true),
  normEpsilon: {
    initial: 1e-5,
    expected: "a number between 0 and 1",
    accepts: (value) => typeof value === "number" && value > 0 && value < 1,
  },
};

/** Fills in the defaults. Throws `invalid-argument` for options that the architecture does not have or values it does not know. */
export function resolveOptions(
  architecture: Architecture,
  given: Readonly<Record<string, unknown>>,
): Options {
  const options: Record<string, unknown> = {};
  const own = { ...rules, ...architecture.rules };
  for (const [name, rule] of Object.entries(own)) options[name] = rule.initial;
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const known = architecture.options.find((option) => option === name);
    if (!known) {
      const list = architecture.options.length
        ? `its options are ${architecture.options.join(", ")}`
        : "it has no options";
      throw new LinrecError("invalid-argument", `${architecture.name} has no option "${name}"; ${list}.`);
    }
    if (!own[known].accepts(value)) {
      throw new LinrecError(
        "invalid-argument",
        `${architecture.name}: ${name} must be ${own[known].expected}; got ${show(value)}.`,
      );
    }
    options[name] = value;
  }
  return options as unknown as Options;
}

/**
 * What an architecture ends with: the network, once all tensors have been taken and make LRUs.
 * Throws `unknown-model` for what is missing, misshapen or left over, and what {@link checkLruParams} does.
 */
export function finished<Built extends Network>(reader: TensorReader, network: Built, hint?: string): Built {
  reader.finish(network.architecture, hint);
  for (const stage of lruStages(network)) checkLruParams(stage.params, `${stage.name}.`);
  return network;
}
