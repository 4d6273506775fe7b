/** Reads a model's parameters out of a checkpoint, collecting every fault, so that one error can name them all. */
import { allocating, LinrecError } from "../errors.js";
import type { Origin } from "../program.js";
import { elementCount, permute, showShape, type Tensor, toFloat32 } from "../tensor.js";
import { checkFinite } from "../validate.js";

/** Faults of one kind that a message spells out; it counts the rest. */
const SHOWN = 6;

/** A size read from a tensor: undefined where that tensor is missing, which `finish` reports. */
export type Size = number | undefined;

const dtypesRead = new Set(["F64", "F32", "F16", "BF16"]);

interface Entry {
  /** The checkpoint's own name. */
  readonly name: string;
  readonly tensor: Tensor;
}

export class TensorReader {
  /** By the name that the architecture knows it under. */
  #tensors: Map<string, Entry>;
  readonly #taken = new Set<string>();
  readonly #missing: string[] = [];
  readonly #wrong: string[] = [];
  /** What became of each tensor that was taken: `writeModel` goes the way back from here. */
  readonly origins: Origin[] = [];
  /** What was made of tensors that were taken, in place of one that the checkpoint may leave out. */
  readonly derived: Float32Array[] = [];

  constructor(tensors: ReadonlyMap<string, Tensor>) {
    this.#tensors = new Map([...tensors].map(([name, tensor]) => [name, { name, tensor }]));
  }

  /** Goes over to an architecture's own spelling of the names. Throws `unknown-model` where two become one. */
  rename(change: (name: string) => string): void {
    const renamed = new Map<string, Entry>();
    for (const [name, entry] of this.#tensors) {
      const key = change(name);
      if (renamed.has(key)) {
        throw new LinrecError(
          "unknown-model",
          `Two tensors have the name ${key}; "${entry.name}" is the second.`,
        );
      }
      renamed.set(key, entry);
    }
    this.#tensors = renamed;
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  names(): string[] {
    return [...this.#tensors.keys()];
  }

  /** One size of a tensor's shape. */
  size(name: string, axis: number): Size {
    return this.#tensors.get(name)?.tensor.shape[axis];
  }

  /**
   * A copy of a tensor's values, or an empty array after noting what is wrong with it.
   * @param shape what the checkpoint's tensor must have, undefined for any size
   * @param axes the order to put its axes in: [1, 0] makes (in, out) of PyTorch's (out, in). It takes no further memory, as
   *   a rearranged copy of the result would: the result is what the way back to the checkpoint starts from.
   */
  take(name: string, shape: readonly Size[], axes?: readonly number[]): Float32Array {
    const { tensor, name: own = name } = this.#tensors.get(name) ?? {};
    this.#taken.add(name);
    if (!tensor) {
      this.#missing.push(name);
    } else if (!dtypesRead.has(tensor.dtype)) {
      this.#wrong.push(`${name} has dtype ${tensor.dtype}, expected floating point`);
    } else if (
      tensor.shape.length !== shape.length ||
      shape.some((size, i) => size !== undefined && size !== tensor.shape[i])
    ) {
      const expected = shape.map((size) => size ?? -1);
      this.#wrong.push(
        `${name} has shape ${showShape(tensor.shape)}, expected ${showShape(expected).replaceAll("-1", "?")}`,
      );
    } else if (elementCount(tensor.shape) === 0) {
      this.#wrong.push(`${name} is empty`);
    } else {
      const plain = toFloat32(tensor);
      checkFinite(name, plain);
      const values = axes ? permute(plain, tensor.shape, axes) : plain;
      // A double that is no float32 can only be given back by keeping it.
      const lost = tensor.dtype === "F64" && tensor.data.some((value, i) => value !== plain[i]);
      this.origins.push({
        name: own,
        ...tensor,
        data: lost ? allocating("a tensor's values", () => tensor.data.slice()) : values,
        axes: lost ? undefined : axes,
      });
      return values;
    }
    return new Float32Array(0);
  }

  /** Notes values as {@link derived}. */
  derive(values: Float32Array): Float32Array {
    this.derived.push(values);
    return values;
  }

  /** Throws `unknown-model` if anything was missing or misshapen, or if tensors are left that nobody took. */
  finish(architecture: string, hint = ""): void {
    const extra = [...this.#tensors.keys()].filter((name) => !this.#taken.has(name));
    const faults = [
      list("missing", this.#missing),
      list("misshapen", this.#wrong),
      list("not part of it", extra),
    ].filter((fault) => fault !== "");
    if (faults.length === 0) return;
    throw new LinrecError(
      "unknown-model",
      `The tensors do not make up ${architecture}: ${faults.join(". ")}.${hint}`,
    );
  }
}

/** "missing: a, b, and 3 more" */
export function list(label: string, items: readonly string[]): string {
  if (items.length === 0) return "";
  const rest = items.length > SHOWN ? `, and ${items.length - SHOWN} more` : "";
  return `${label}: ${items.slice(0, SHOWN).join(", ")}${rest}`;
}
