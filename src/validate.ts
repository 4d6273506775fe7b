/** The checks that stand before every side effect. Each error says what came, what was expected and what to do. */
import { LinrecError } from "./errors.js";
import { arrayClass, checkAttached, typeName } from "./tensor.js";

/** A Float32Array of any realm, not detached. */
export function checkFloat32(
  name: string,
  value: unknown,
  what = "a Float32Array",
): asserts value is Float32Array {
  checkArray("Float32Array", what, name, value);
}

/** An Int32Array of any realm, not detached. */
export function checkInt32(name: string, value: unknown, what: string): asserts value is Int32Array {
  checkArray("Int32Array", what, name, value);
}

function checkArray(type: string, what: string, name: string, value: unknown): void {
  if (arrayClass(value) !== type) {
    throw new LinrecError(
      "wrong-dtype",
      `${name} must be ${what}; got ${typeName(value)}. Use ${type}.from(...).`,
    );
  }
  checkAttached(name, (value as Float32Array).buffer);
}

/**
 * The values that an array has now, as a view of their own: a subclass has its own idea of `subarray`, and the array may grow with
 * its buffer.
 */
export function viewOf({ buffer, byteOffset, length }: Float32Array | Int32Array): Float32Array {
  return new Float32Array(buffer, byteOffset, length);
}

/** Makes a check, for after every wait: it throws `detached` once the memory of one of the arrays is gone. */
export function holding(x: Float32Array, y: Float32Array, timesteps?: Float32Array): () => void {
  const values = () => x.length + y.length + (timesteps?.length ?? 0);
  const held = values();
  return () => {
    if (values() === held) return;
    throw new LinrecError(
      "detached",
      "The memory of x, out or integrationTimesteps was transferred away, or shrank, while it was in use. Leave it until the promise settles, or pass a copy.",
    );
  };
}

/** Refuses NaN and infinities. */
export function checkFinite(
  name: string,
  values: Float32Array,
  help = "every parameter must be finite as float32",
  isRead = (_index: number) => true,
): void {
  // `includes` is the engine's own code: a page's first loops are slow.
  if (![Number.NaN, Infinity, -Infinity].some((fault) => values.includes(fault))) return;
  const i = values.findIndex((value, index) => !Number.isFinite(value) && isRead(index));
  if (i < 0) return;
  throw new LinrecError("non-finite", `${name}[${i}] is ${values[i]}; ${help}.`);
}

export function checkCount(name: string, value: unknown, least: number): asserts value is number {
  if (!Number.isSafeInteger(value) || (value as number) < least) {
    throw new LinrecError(
      "invalid-argument",
      `${name} must be an integer of at least ${least}; got ${show(value)}.`,
    );
  }
}

/** @param mayBeList or a Map, or whatever else has its values under no names of its own */
export function checkObject(what: string, value: unknown, mayBeList = true): asserts value is object {
  if (typeof value !== "object" || value === null || (!mayBeList && Symbol.iterator in value)) {
    throw new LinrecError("invalid-argument", `${what} must be an object; got ${show(value)}.`);
  }
}

/** An options object with none but known keys: a misspelt option would be ignored in silence. */
export function checkOptions(what: string, options: unknown, known: readonly string[]): void {
  checkObject(what, options, false);
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) {
      throw new LinrecError(
        "invalid-argument",
        `${what} has no option "${key}". It has: ${known.join(", ")}.`,
      );
    }
  }
}

export function checkChoice(name: string, value: unknown, choices: readonly unknown[]): void {
  if (!choices.includes(value)) {
    throw new LinrecError(
      "invalid-argument",
      `${name} must be one of ${choices.map(show).join(", ")}; got ${show(value)}.`,
    );
  }
}

export function checkFunction(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "function") {
    throw new LinrecError("invalid-argument", `${name} must be a function; got ${show(value)}.`);
  }
}

/** A value for a message, short. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 60));
  if (typeof value === "bigint") return `${value}n`; // it is no number
  if (typeof value === "object" && value !== null) return typeName(value);
  return String(value);
}
