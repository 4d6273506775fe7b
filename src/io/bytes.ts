import { LinrecError } from "../errors.js";
import { checkAttached, typeName } from "../tensor.js";

/**
 * The bytes of an ArrayBuffer, a SharedArrayBuffer or a view of one, of any realm, without a copy.
 * Throws `wrong-dtype` for anything else and `detached` for memory that was transferred away.
 */
export function bytesOf(source: ArrayBufferLike | ArrayBufferView): Uint8Array {
  if (!isBytes(source)) {
    throw new LinrecError(
      "wrong-dtype",
      `Expected an ArrayBuffer or a view of one; got ${typeName(source)}.`,
    );
  }
  const isView = ArrayBuffer.isView(source);
  checkAttached("The array of bytes", isView ? source.buffer : source);
  return isView
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : new Uint8Array(source);
}

/** Whether {@link bytesOf} takes it. */
export function isBytes(source: unknown): source is ArrayBufferLike | ArrayBufferView {
  return ArrayBuffer.isView(source) || /^(Shared)?ArrayBuffer$/.test(typeName(source));
}

/** Throws for what is not UTF-8; a byte order mark stays. Audio worklets, and Jest's jsdom, have no TextDecoder. */
export function decodeUtf8(bytes: Uint8Array): string {
  if (typeof TextDecoder === "function") {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return decoder.decode(bytes.slice()); // a copy, for a TextDecoder refuses shared memory
  }
  const escaped = Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, "0")}`);
  return decodeURIComponent(escaped.join(""));
}

/** Of well-formed text. Where there is no TextDecoder there is no TextEncoder either. */
export function encodeUtf8(text: string): Uint8Array<ArrayBuffer> {
  if (typeof TextEncoder === "function") return new TextEncoder().encode(text);
  return Uint8Array.from(unescape(encodeURIComponent(text)), (byte) => byte.charCodeAt(0));
}
