/** Sources that are no files, as far as they are needed at once: `plain.ts`, which reads them, is loaded later. */
import { allocating } from "../errors.js";
import type { LruParams } from "../program.js";
import { arrayClass, isDetached, typeName } from "../tensor.js";
import type { PlainLru } from "./plain.js";

/** Maps in objects in ...: more would hold themselves. */
const MOST_LEVELS = 12;

/** A copy, for the owner to go on with what was passed in. */
export function copied<Source>(source: Source): Source {
  return allocating("a copy of the tensors", () => copy(source, 0)) as Source;
}

function copy(value: unknown, level: number): unknown {
  const deeper = <Key>([key, part]: [Key, unknown]): [Key, unknown] => [key, copy(part, level + 1)];
  if (level > MOST_LEVELS) return value;
  if (Array.isArray(value)) return value.map((part) => copy(part, level + 1));
  const type = typeName(value);
  if (type === "Object") return Object.fromEntries(Object.entries(value as object).map(deeper));
  if (type === "Map") return new Map([...(value as Map<unknown, unknown>)].map(deeper));
  const array = value as Float32Array;
  return arrayClass(value) && "slice" in array && !isDetached(array.buffer) ? array.slice() : value;
}

/** Whether a layer's parameters are of other kinds, or under other names, than {@link LruParams} has. */
export function isPlain(source: LruParams | PlainLru): source is PlainLru {
  const type = typeName(source);
  const isArray = (value: unknown) => Array.isArray(value) || arrayClass(value) !== undefined;
  return (
    type === "Map" ||
    (type === "Object" &&
      Object.entries(source).some(
        ([name, value]) => /_/.test(name) || Array.isArray(value) || isArray(value?.data),
      ))
  );
}
