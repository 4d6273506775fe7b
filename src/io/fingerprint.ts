/** What a program computes, as a short name: state files carry it, so that a state cannot meet another model. */
import type { Network } from "../program.js";

/** Where values stand and what people call them says nothing about what is computed; these may change between versions. */
const ignored = new Set(["name", "src", "dst", "gate", "other"]);

/**
 * 16 hexadecimal digits over the architecture, the stages with their sizes and options, and every bit of the parameters.
 * The same on every machine. It tells programs apart by accident, not against somebody who forges one.
 */
export function fingerprint(program: Network): string {
  const hash = new Hash();
  hash.text(program.architecture);
  for (const stage of program.stages) hashFields(hash, stage);
  return hash.digest();
}

function hashFields(hash: Hash, fields: object): void {
  for (const [key, value] of Object.entries(fields).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (ignored.has(key) || value === undefined) continue;
    hash.text(key);
    if (ArrayBuffer.isView(value)) hash.floats(value as Float32Array);
    else if (typeof value === "object" && value !== null) hashFields(hash, value);
    else hash.text(String(value));
  }
}

/** Two lanes of 32 bits, each a multiply-and-rotate over words with MurmurHash3's constants and finaliser. */
class Hash {
  #a = 0x9747b28c;
  #b = 0x3c6ef372;

  /** The length goes first, so that no two sequences of texts and arrays feed the same words. */
  text(text: string): void {
    this.#word(text.length);
    for (let i = 0; i < text.length; i++) this.#word(text.charCodeAt(i));
  }

  floats(values: Float32Array): void {
    const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
    this.#word(words.length);
    for (let i = 0; i < words.length; i++) this.#word(words[i] as number);
  }

  digest(): string {
    return [this.#a ^ this.#b, this.#b].map((lane) => finalize(lane).toString(16).padStart(8, "0")).join("");
  }

  #word(word: number): void {
    const mixed = Math.imul(word, 0xcc9e2d51);
    const a = this.#a ^ Math.imul((mixed << 15) | (mixed >>> 17), 0x1b873593);
    this.#a = (Math.imul((a << 13) | (a >>> 19), 5) + 0xe6546b64) | 0;
    const b = Math.imul(this.#b ^ word, 0x85ebca6b);
    this.#b = (Math.imul((b << 11) | (b >>> 21), 0xc2b2ae35) + 0x38495ab5) | 0;
  }
}

function finalize(lane: number): number {
  let h = lane ^ (lane >>> 16);
  h = Math.imul(h, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
