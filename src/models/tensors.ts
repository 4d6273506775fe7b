/** Reads a model's parameters out of a checkpoint, collecting every fault, so that one error can name them all. */
import { LinrecError } from "../errors.js";
import { elementCount, showShape, type Tensor, toFloat32 } from "../io/tensor.js";

/** Faults of one kind that a message spells out; it counts the rest. */
const SHOWN = 6;

/** A size read from a tensor: undefined where that tensor is missing, which `finish` reports. */
export type Size = number | undefined;

const dtypesRead = new Set(["F64", "F32", "F16", "BF16"]);

export class TensorReader {
  readonly #tensors: ReadonlyMap<string, Tensor>;
  readonly #taken = new Set<string>();
  readonly #missing: string[] = [];
  readonly #wrong: string[] = [];

  constructor(tensors: ReadonlyMap<string, Tensor>) {
    this.#tensors = tensors;
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  names(): string[] {
    return [...this.#tensors.keys()];
  }

  /** One size of a tensor's shape. */
  size(name: string, axis: number): Size {
    return this.#tensors.get(name)?.shape[axis];
  }

  /** A copy of a tensor's values, or an empty array after noting what is wrong with it. */
  take(name: string, shape: readonly Size[]): Float32Array {
    const tensor = this.#tensors.get(name);
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
      return this.#finite(name, toFloat32(tensor));
    }
    return new Float32Array(0);
  }

  #finite(name: string, values: Float32Array): Float32Array {
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad < 0) return values;
    throw new LinrecError(
      "non-finite",
      `${name} holds ${values[bad]} (as float32) at index ${bad}; every parameter must be finite.`,
    );
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
function list(label: string, items: readonly string[]): string {
  if (items.length === 0) return "";
  const rest = items.length > SHOWN ? `, and ${items.length - SHOWN} more` : "";
  return `${label}: ${items.slice(0, SHOWN).join(", ")}${rest}`;
}
