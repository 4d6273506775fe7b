// Bytes as the text of a string literal, for gzip and brotli to find in it what they would find in the bytes: they make less of
// it than of the same bytes deflated and then in base64.

/** Frequent bytes of WASM come to be letters and digits, one byte of UTF-8 each. src/cpu/kernels.ts takes it off again. */
const SHIFT = 36;

/**
 * @param {Uint8Array} bytes
 * @returns {string} as many characters, without control characters: what a byte is, modulo 256
 */
export function asText(bytes) {
  const codes = Array.from(bytes, (byte) => {
    const code = (byte + SHIFT) % 256;
    return code < 32 || (code > 126 && code < 160) ? code + 256 : code;
  });
  return codes.map((code) => String.fromCharCode(code)).join("");
}
