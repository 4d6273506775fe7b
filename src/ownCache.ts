/** Whose a cache is, and where its state is. */
import { type AnyCache, LruCache } from "./cache.js";
import { LinrecError } from "./errors.js";
import type { GpuCache } from "./gpuCache.js";
import { show } from "./validate.js";

/** Those that there are: their class is in a file that is loaded later. */
export const gpuCaches = new WeakSet<object>();

export function isGpuCache<Cache extends AnyCache>(cache: unknown): cache is GpuCache<Cache> {
  return gpuCaches.has(cache as object);
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
  if (!LruCache.is(cache) && !isGpuCache(cache)) {
    throw new LinrecError(
      "invalid-argument",
      `${name} must come from allocateInferenceCache or a forward; got ${show(cache)}. Pass the cache itself, not a copy or a ` +
        "proxy of it (Vue: markRaw).",
    );
  }
  if (cache.owner !== owner) {
    throw new LinrecError(
      "foreign-cache",
      `${name} belongs to another layer or model. Use one of this model's own.`,
    );
  }
}
