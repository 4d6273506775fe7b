/**
 * The JSON header of a .safetensors file, read by a grammar of its own: JSON.parse hides duplicate keys, accepts
 * numbers that are no sizes, and recurses. Nothing here recurses or backtracks: time is linear in the header.
 *
 *   header   = "{" [ entry { "," entry } ] "}"
 *   entry    = string ":" tensor | "__metadata__" ":" "{" [ string ":" string { "," string ":" string } ] "}"
 *   tensor   = "{" three of: "dtype" ":" string, "shape" ":" integers, "data_offsets" ":" integers "}"
 *   integers = "[" [ integer { "," integer } ] "]"
 */
import { LinrecError } from "../errors.js";
import { encodeUtf8 } from "./bytes.js";

/** More dimensions than any library has; without a limit, a shape would take four times its memory in the file. */
const MAX_INTEGERS = 64;

export interface HeaderEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** first byte in the data buffer, and the one after the last */
  readonly begin: number;
  readonly end: number;
}

export interface Header {
  readonly entries: Map<string, HeaderEntry>;
  /** No prototype: a key "__proto__" is a key like any other. */
  readonly metadata: Record<string, string>;
}

/** @param text the header as it stands in the file, from byte `offset` on. Throws `malformed-file`. */
export function parseHeader(text: string, offset: number): Header {
  const scanner = new Scanner(text, offset);
  const header: Header = { entries: new Map(), metadata: Object.create(null) as Record<string, string> };
  // Not after a space: the format wants "{" first.
  if (text[0] !== "{") scanner.fail('the header must start with "{"');
  const seen = new Set<string>();
  scanner.object("the header", (name) => {
    if (seen.has(name)) scanner.fail(`${quote(name)} is there twice`);
    seen.add(name);
    if (name === "__metadata__") readMetadata(scanner, header.metadata);
    else header.entries.set(name, readEntry(scanner, name));
  });
  scanner.end();
  return header;
}

function readMetadata(scanner: Scanner, metadata: Record<string, string>): void {
  scanner.object("__metadata__", (key) => {
    if (key in metadata) scanner.fail(`__metadata__ has ${quote(key)} twice`);
    metadata[key] = scanner.string(`the value of ${quote(key)} in __metadata__`);
  });
}

function readEntry(scanner: Scanner, name: string): HeaderEntry {
  const where = `tensor ${quote(name)}`;
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  const seen = new Set<string>();
  scanner.object(where, (key) => {
    if (seen.has(key)) scanner.fail(`${where} has ${quote(key)} twice`);
    seen.add(key);
    if (key === "dtype") dtype = scanner.string(`the dtype of ${where}`);
    else if (key === "shape") shape = scanner.integers(`the shape of ${where}`);
    else if (key === "data_offsets") offsets = scanner.integers(`the data_offsets of ${where}`);
    else scanner.fail(`${where} has the unknown field ${quote(key)}`);
  });
  if (dtype === undefined || !shape || !offsets) {
    return scanner.fail(`${where} needs the fields dtype, shape and data_offsets`);
  }
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || offsets.length !== 2 || begin > end) {
    return scanner.fail(
      `the data_offsets of ${where} must be [begin, end] with begin <= end; got [${offsets.join(", ")}]`,
    );
  }
  return { dtype, shape, begin, end };
}

class Scanner {
  readonly #text: string;
  readonly #offset: number;
  #at = 0;

  constructor(text: string, offset: number) {
    this.#text = text;
    this.#offset = offset;
  }

  /** Throws `malformed-file` with the byte of the file that reading has come to. */
  fail(fault: string): never {
    const byte = this.#offset + encodeUtf8(this.#text.slice(0, this.#at)).length;
    return fail(`${fault} (byte ${byte})`);
  }

  /** Nothing but white space is left. */
  end(): void {
    this.#space();
    if (this.#at < this.#text.length) this.fail("text follows the header's closing brace");
  }

  /** Reads an object, calling `member` at each value. */
  object(what: string, member: (key: string) => void): void {
    this.#expect("{", what);
    if (this.#accept("}")) return;
    do {
      const key = this.string(`a key of ${what}`);
      this.#expect(":", what);
      member(key);
    } while (this.#accept(","));
    this.#expect("}", what);
  }

  /** Reads an array of safe integers of at least 0, in plain digits. */
  integers(what: string): number[] {
    const values: number[] = [];
    this.#expect("[", what);
    if (this.#accept("]")) return values;
    do {
      if (values.length === MAX_INTEGERS) this.fail(`${what} has more than ${MAX_INTEGERS} numbers`);
      values.push(this.#integer(what));
    } while (this.#accept(","));
    this.#expect("]", what);
    return values;
  }

  #integer(what: string): number {
    this.#space();
    // Up to the next mark or space: all that was meant as a number, so that the message can show it.
    const start = this.#at;
    while (!",[]{} \t\n\r".includes(this.#text.charAt(this.#at))) this.#at++;
    const digits = this.#text.slice(start, this.#at);
    const value = /^(0|[1-9][0-9]{0,15})$/.test(digits) ? Number(digits) : Number.NaN;
    if (Number.isSafeInteger(value)) return value;
    return this.fail(`${what} must hold integers from 0 to 2^53 - 1 in plain digits; got ${quote(digits)}`);
  }

  string(what: string): string {
    this.#expect('"', what);
    const start = this.#at;
    let escaped = false;
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code === 34) break;
      // NaN stands for the end of the text.
      if (!(code >= 32)) this.fail(`${what} is a string without end, or with a control character`);
      if (code === 92) escaped = true;
      this.#at += code === 92 ? 2 : 1;
    }
    const raw = this.#text.slice(start, this.#at++);
    return escaped ? this.#unescape(raw, what) : raw;
  }

  #unescape(raw: string, what: string): string {
    let value: string;
    try {
      value = JSON.parse(`"${raw}"`) as string;
    } catch {
      return this.fail(`${what} has an escape that JSON does not know`);
    }
    // With the flag u, only a surrogate without its partner matches: it has no UTF-8 form.
    if (/\p{Surrogate}/u.test(value)) this.fail(`${what} has half a surrogate pair`);
    return value;
  }

  #expect(mark: string, what: string): void {
    if (this.#accept(mark)) return;
    const next = this.#text[this.#at];
    this.fail(
      `${what}: expected ${quote(mark)}, got ${next === undefined ? "the end of the header" : quote(next)}`,
    );
  }

  #accept(mark: string): boolean {
    this.#space();
    if (this.#text[this.#at] !== mark) return false;
    this.#at++;
    return true;
  }

  #space(): void {
    while (isSpace(this.#text.charCodeAt(this.#at))) this.#at++;
  }
}

/** " ", "\t", "\n", "\r" */
function isSpace(code: number): boolean {
  return code === 32 || code === 9 || code === 10 || code === 13;
}

/** Throws `malformed-file`. */
export function fail(fault: string, cause?: unknown): never {
  throw new LinrecError(
    "malformed-file",
    `Not a valid .safetensors file: ${fault}.`,
    cause ? { cause } : undefined,
  );
}

/** A name from a file in a message: in quotes, escaped, cut short. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 77)}...` : name);
}
