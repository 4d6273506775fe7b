/** Whose a cache is, and where its state is. */
import type { AnyCache } from "./cache.js";
import { LinrecError } from "./errors.js";
import type { GpuCache } from "./gpuCache.js";
import { show } from "./validate.js";

export function isGpuCache<Cache extends AnyCache>(cache: unknown): cache is GpuCache<Cache> {
  return "advance" in Object(cache); // its class is in a file that is loaded later
}

/** Throws unless `cache` is one of `owner`'s, in JavaScript's memory. */
export function checkCache<Cache extends AnyCache>(
  name: string,
  cache: unknown,
  owner: object,
): asserts cache is Cache {
  if (isGpuCache(cache) && cache.owner === owner) {
    throw new LinrecError(
      "invalid-argument",
      `${name} is on the GPU: await step or stepMany with it, or pass a copy, \`await cache.read()\`.`,
    );
  }
  const its = (cache as Partial<AnyCache> | null | undefined)?.owner;
  if (its === undefined) {
    throw new LinrecError(
      "invalid-argument",
      `${name} must come from allocateInferenceCache or a forward; got ${show(cache)}.`,
    );
  }
  if (its !== owner) {
    throw new LinrecError(
      "foreign-cache",
      `${name} belongs to another layer or model. Use one of this model's own.`,
    );
  }
}
