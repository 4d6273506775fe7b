/** Sources of chunks, and what comes of them. */
import type { StreamChunk } from "../../src/index.js";

export async function collect<T>(results: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const result of results) all.push(result);
  return all;
}

export function readable(chunks: Iterable<StreamChunk>): ReadableStream<StreamChunk> {
  const iterator = chunks[Symbol.iterator]();
  return new ReadableStream({
    pull(controller) {
      const { done, value } = iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
}
