/** What an architecture is: a name, its options, and a way from a checkpoint's tensors to a program. */
import { LinrecError } from "../errors.js";
import type { Tensor } from "../io/tensor.js";
import type { Program } from "../program.js";
import type { TensorReader } from "./tensors.js";

/** How to read a checkpoint: an architecture's name and its options, each with a default. JSON in `__metadata__.linrec`. */
export interface ModelSpec {
  readonly architecture: string;
  /** Normalise before the LRU (true) or after the residual sum (false, the default). */
  readonly prenorm?: boolean;
  /** "batch" (running statistics; the default) or "layer". */
  readonly norm?: "batch" | "layer";
  /** One output for each sequence, from its "mean" (the default) or "last" token, or "none": one for each token. */
  readonly pooling?: "mean" | "last" | "none";
  /** Log-softmax runs over groups of this many outputs; 1 (the default): over all of them. */
  readonly multidim?: number;
}

export type Options = Required<Omit<ModelSpec, "architecture">>;
type OptionName = keyof Options;
type Tensors = ReadonlyMap<string, Tensor>;

export interface Architecture {
  readonly name: string;
  readonly options: readonly OptionName[];
  /** The options when the names of the tensors can be nothing but this architecture, else undefined. */
  infer(tensors: Tensors): Partial<Options> | undefined;
  /** Takes every tensor from the reader, and ends with `reader.finish`. */
  build(reader: TensorReader, options: Options): Program;
}

interface Rule<T> {
  readonly initial: T;
  readonly expected: string;
  readonly accepts: (value: unknown) => boolean;
}

function oneOf<T extends string>(...values: [T, ...T[]]): Rule<T> {
  const expected = values.map((value) => `"${value}"`).join(" or ");
  return { initial: values[0], expected, accepts: (value) => values.some((allowed) => allowed === value) };
}

const rules: { readonly [K in OptionName]: Rule<Options[K]> } = {
  prenorm: { initial: false, expected: "true or false", accepts: (value) => typeof value === "boolean" },
  norm: oneOf("batch", "layer"),
  pooling: oneOf("mean", "last", "none"),
  multidim: {
    initial: 1,
    expected: "an integer of at least 1",
    accepts: (value) => Number.isSafeInteger(value) && Number(value) >= 1,
  },
};

/** Fills in the defaults. Throws `invalid-argument` for options that the architecture does not have or values it does not know. */
export function resolveOptions(
  architecture: Architecture,
  given: Readonly<Record<string, unknown>>,
): Options {
  const options: Record<string, unknown> = {};
  for (const [name, rule] of Object.entries(rules)) options[name] = rule.initial;
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const known = architecture.options.find((option) => option === name);
    if (!known) {
      const list = architecture.options.length
        ? `its options are ${architecture.options.join(", ")}`
        : "it has no options";
      throw new LinrecError("invalid-argument", `${architecture.name} has no option "${name}"; ${list}.`);
    }
    if (!rules[known].accepts(value)) {
      const came = JSON.stringify(value) ?? String(value);
      throw new LinrecError(
        "invalid-argument",
        `${architecture.name}: ${name} must be ${rules[known].expected}; got ${came}.`,
      );
    }
    options[name] = value;
  }
  return options as unknown as Options;
}
