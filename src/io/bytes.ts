import { LinrecError } from "../errors.js";
import { checkAttached, typeName } from "./tensor.js";

/**
 * The bytes of an ArrayBuffer, a SharedArrayBuffer or a view of one, of any realm, without a copy.
 * Throws `wrong-dtype` for anything else and `detached` for memory that was transferred away.
 */
export function bytesOf(source: ArrayBufferLike | ArrayBufferView): Uint8Array {
  const isBuffer = /^(Shared)?ArrayBuffer$/.test(typeName(source));
  if (!isBuffer && !ArrayBuffer.isView(source)) {
    throw new LinrecError(
      "wrong-dtype",
      `Expected an ArrayBuffer or a view of one; got ${typeName(source)}.`,
    );
  }
  const buffer = isBuffer ? (source as ArrayBuffer) : (source as ArrayBufferView).buffer;
  checkAttached("The array of bytes", buffer);
  if (isBuffer) return new Uint8Array(buffer);
  const view = source as ArrayBufferView;
  return new Uint8Array(buffer, view.byteOffset, view.byteLength);
}
