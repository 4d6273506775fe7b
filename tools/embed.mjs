// Bytes as the text of a string literal, for gzip and brotli to find in it what they would find in the bytes: they make less of
// it than of the same bytes deflated and then in base64. ASCII alone: a page in another encoding than UTF-8 reads a classic
// script in that one.

/** Frequent bytes of WASM come to be single letters and digits. src/cpu/kernels.ts takes it off again. */
const SHIFT = 36;

/**
 * @param {Uint8Array} bytes
 * @returns {string} what a byte is, modulo 256, as a character from space to `|`; after `}` it stands for 93 more, after `~` for 186
 */
export function asText(bytes) {
  const texts = Array.from(bytes, (byte) => {
    const code = ((byte + SHIFT - 32) % 256) + 32;
    const more = Math.floor((code - 32) / 93);
    return ["", "}", "~"][more] + String.fromCharCode(code - 93 * more);
  });
  return texts.join("");
}
