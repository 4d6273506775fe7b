/** Wrong calls: each must end in a LinrecError of the right code that finishes the thought, and change nothing. */
import { expect } from "vitest";
import { errorCodes, isLinrecError, LinrecError, type LinrecErrorCode } from "../../src/index.js";

/** [what is wrong, the code, what the message must say, the call] */
export type Misuse<Context> = readonly [
  title: string,
  code: LinrecErrorCode,
  says: RegExp,
  call: (context: Context) => unknown,
];

/** What was thrown at once, or what the promise rejected with; fails if neither. */
export async function errorOf(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  return expect.fail("the call was accepted");
}

export function expectLinrecError(error: unknown, code: LinrecErrorCode, says: RegExp): void {
  if (!isLinrecError(error)) throw error;
  expect(error).toBeInstanceOf(LinrecError);
  expect(Object.keys(errorCodes)).toContain(error.code);
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringMatching(says),
  });
  // A sentence, without the leavings of values that have no text.
  expect(error.message).toMatch(/[.)]$/);
  expect(error.message).not.toMatch(/\[object |undefined undefined/);
}

/** Memory that was transferred away. */
export function detached(values: Float32Array<ArrayBuffer>): Float32Array {
  structuredClone(values.buffer, { transfer: [values.buffer] });
  return values;
}

/** A value of a wrong type, for a parameter that TypeScript would refuse. */
export function wrong(value: unknown): never {
  return value as never;
}
