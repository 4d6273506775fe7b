import { LinrecError } from "../errors.js";
import { checkAttached, typeName } from "./tensor.js";

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
