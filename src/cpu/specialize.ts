/**
 * Makes the module that runs here out of the one that is compiled: assembly/simd.ts has the placeholders. Each is as long as what
 * replaces it, and occurs nowhere else in the module (the build counts).
 */

/** First byte of every SIMD instruction, and of the constant that `fuses` compares with. */
const PREFIX = 0xfd;
/** Second byte of i16x8.q15mulr_sat_s, i32x4.dot_i16x8_s and i16x8.avgr_u; the third is 1. */
export const PRODUCT = 0x82;
export const SUM = 0xba;
export const DIFFERENCE = 0x9b;
const [MUL, ADD, NEG, NOP] = [0xe6, 0xe4, 0xe1, 0x01];

/** In place: multiply-adds are fused (relaxed SIMD), or the product is rounded before it is added. */
export function specialize(bytes: Uint8Array, fused: boolean): void {
  for (let at = bytes.indexOf(PREFIX); at >= 0; at = bytes.indexOf(PREFIX, at + 1)) {
    const op = bytes[at + 1];
    const end = bytes[at + 2];
    if (end === 1 && op === PRODUCT) {
      if (fused) bytes.fill(NOP, at, at + (bytes[at + 3] === PREFIX && bytes[at + 4] === NEG ? 6 : 3));
      else bytes[at + 1] = MUL;
    } else if (end === 1 && (op === SUM || op === DIFFERENCE)) {
      if (fused)
        bytes.set([op === SUM ? 0x85 : 0x86, 2], at + 1); // f32x4.relaxed_madd, f32x4.relaxed_nmadd
      else bytes[at + 1] = ADD;
    } else if (fused && op === 0xff && end === 0x3f) bytes.set([0x80, 0x80, 0], at); // 0xffffd in LEB128 -> 0
  }
}
