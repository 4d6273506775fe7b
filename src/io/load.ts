/** Bytes from wherever they are. */
import { LinrecError, messageOf } from "../errors.js";
import { importLater } from "../runtime/importLater.js";
import { typeName } from "../tensor.js";
import { bytesOf } from "./bytes.js";

/** A string is a URL, relative to the page where there is one; a Blob may be a File. */
export type BytesSource = ArrayBufferLike | ArrayBufferView | Blob | URL | string;

/**
 * The bytes of a source: those of a buffer or a view themselves, not copied; a Blob's, a File's or a URL's read in. `file:`
 * URLs are read in Node, Deno and Bun.
 *
 * Rejects with `load-failed` (with the URL and the HTTP status, or the cause), `detached`, and `wrong-dtype` for what is no
 * source.
 */
export async function loadBytes(source: BytesSource): Promise<Uint8Array> {
  if (typeof source === "string") return loadUrl(parseUrl(source));
  if (isBlob(source)) return loadBlob(source);
  if (typeName(source) === "URL") return loadUrl(source as URL);
  return bytesOf(source as ArrayBufferLike | ArrayBufferView);
}

function isBlob(source: unknown): source is Blob {
  return /^(Blob|File)$/.test(typeName(source));
}

function parseUrl(text: string): URL {
  try {
    return new URL(text, globalThis.location?.href);
  } catch (cause) {
    throw new LinrecError(
      "load-failed",
      `"${text}" is not a URL. Pass a complete URL, or the bytes; for a path in Node, pathToFileURL(path) of node:url.`,
      { cause },
    );
  }
}

async function loadBlob(blob: Blob): Promise<Uint8Array> {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch (cause) {
    const name = "name" in blob ? `The file ${String(blob.name)}` : "The Blob";
    throw new LinrecError("load-failed", `${name} could not be read: ${messageOf(cause)}`, { cause });
  }
}

async function loadUrl(url: URL): Promise<Uint8Array> {
  try {
    return url.protocol === "file:" ? await readFile(url) : await bytesOfResponse(await fetch(url), `${url}`);
  } catch (cause) {
    if (cause instanceof LinrecError) throw cause;
    throw new LinrecError("load-failed", `${url} could not be loaded: ${messageOf(cause)}`, { cause });
  }
}

/** Rejects with `load-failed` unless the server has it. */
export async function bytesOfResponse(
  response: Response,
  name = response.url || "The Response",
): Promise<Uint8Array> {
  if (!response.ok) {
    const status = `${response.status} ${response.statusText}`.trim();
    throw new LinrecError("load-failed", `${name} could not be loaded: the server answered HTTP ${status}.`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

async function readFile(url: URL): Promise<Uint8Array> {
  const fs = (await importLater("node:fs/promises")) as typeof import("node:fs/promises");
  const file = await fs.readFile(url);
  return new Uint8Array(file.buffer, file.byteOffset, file.byteLength);
}
