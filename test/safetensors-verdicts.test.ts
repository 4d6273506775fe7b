/**
 * The verdicts of the reference library on some 700 small files, kept in fixtures/safetensors-verdicts.json (made by
 * python/safetensors_verdicts.py): linrec reads nothing that it refuses, reads the same where both read, and is stricter
 * for the reasons listed here alone.
 */
import { expect, test } from "vitest";
import { isLinrecError } from "../src/errors.js";
import { readSafetensors } from "../src/io/safetensors.js";
import text from "./fixtures/safetensors-verdicts.json?raw";

interface Case {
  name: string;
  /** base64 */
  file: string;
  /** the library's error */
  refused?: string;
  /** or what it read: name -> dtype, shape, bytes in base64 */
  tensors?: Record<string, [string, number[], string]>;
  metadata?: Record<string, string>;
}

const { library, cases } = JSON.parse(text) as { library: string; cases: Case[] };

/** What linrec refuses and the library reads: the words of linrec's error, and why it is right to. */
const stricter: [RegExp, string][] = [
  [/the header must start with "\{"/, "the format's own text asks for it"],
  [
    /is there twice|has ".*" twice/,
    "which of the two is meant depends on who reads: a file must mean one thing",
  ],
  [/has the unknown field/, "it would be lost when the file is written again, and no writer writes one"],
  [
    /tensor "a": expected "\{", got "\["/,
    "a tensor as an array of its fields: an accident of the library's parser",
  ],
  [/the dtype of tensor "a": expected "\\"", got "\{"/, "a dtype as an object: the same accident"],
  [
    /__metadata__: expected "\{", got "n"/,
    "null: the format has a map of strings there, and no writer writes this",
  ],
  [
    /has dtype (C64|F[468]\w*); linrec reads/,
    "dtypes that no layer here computes with (the code is `unsupported`)",
  ],
  [
    /integers from 0 to 2\^53 - 1|is too large/,
    "sizes beyond JavaScript's integers, which only an empty tensor can have",
  ],
  [
    /has more than 64 numbers/,
    "no framework has so many dimensions; without a limit a shape outgrows its file in memory",
  ],
];

const bytesOf = (base64: string) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

function read({ file }: Case) {
  try {
    return readSafetensors(bytesOf(file));
  } catch (error) {
    if (isLinrecError(error)) return `${error.code}: ${error.message}`;
    throw error;
  }
}

const results = cases.map((item) => ({ ...item, ours: read(item) }));

test(`${library}: what it refuses, linrec refuses`, () => {
  const refused = results.filter((item) => item.refused !== undefined);
  expect(refused.length).toBeGreaterThan(400);
  expect(refused.filter(({ ours }) => typeof ours !== "string").map(({ name }) => name)).toEqual([]);
});

test(`${library}: what both read, they read alike`, () => {
  const both = results.filter(({ tensors, ours }) => tensors && typeof ours !== "string");
  expect(both.length).toBeGreaterThan(100);
  for (const { name, tensors, metadata, ours } of both) {
    if (typeof ours === "string") continue;
    const found = [...ours.tensors].map(([key, { dtype, shape, data }]) => {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      return [key, [dtype, shape, btoa(String.fromCharCode(...bytes))]];
    });
    const sorted = (entries: unknown[][]) => new Map(entries.sort() as [string, unknown][]);
    expect([name, sorted(found)]).toEqual([name, sorted(Object.entries(tensors ?? {}))]);
    expect([name, { ...ours.metadata }]).toEqual([name, { ...metadata }]);
  }
});

test(`${library}: linrec is stricter for the listed reasons alone`, () => {
  const refused = results.filter(({ tensors, ours }) => tensors && typeof ours === "string");
  const reasonsOf = (ours: unknown) => stricter.filter(([words]) => words.test(ours as string));
  const unlisted = refused.filter(({ ours }) => reasonsOf(ours).length !== 1);
  expect(unlisted.map(({ name, ours }) => `${name}: ${ours}`)).toEqual([]);
  const idle = stricter.filter(([words]) => !refused.some(({ ours }) => words.test(ours as string)));
  expect(idle).toEqual([]); // a reason that no file needs any more leaves the list
});
