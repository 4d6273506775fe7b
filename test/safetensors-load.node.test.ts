import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadBytes } from "../src/io/load.js";
import { readSafetensors, writeSafetensors } from "../src/io/safetensors.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "linrec-"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("in Node", () => {
  test("file: URLs, with spaces and more", async () => {
    const path = join(folder, "a file, 100 % é.bin");
    await writeFile(path, Uint8Array.of(1, 2, 3));
    expect(await loadBytes(pathToFileURL(path))).toEqual(Uint8Array.of(1, 2, 3));
    expect(await loadBytes(pathToFileURL(path).href)).toEqual(Uint8Array.of(1, 2, 3));
  });

  test("a file that is not there, by its URL", async () => {
    const url = pathToFileURL(join(folder, "nothing.bin"));
    await expect(loadBytes(url)).rejects.toMatchObject({
      code: "load-failed",
      message: expect.stringMatching(/nothing\.bin.*ENOENT/),
    });
  });

  test("a path is not a URL, and the message says how to make one", async () => {
    await expect(loadBytes("./model.safetensors")).rejects.toMatchObject({
      code: "load-failed",
      message: expect.stringMatching(/"\.\/model\.safetensors".*pathToFileURL/),
    });
  });

  test("arrays of another realm, in and out", async () => {
    const data = runInNewContext("Float32Array.of(1, 2)") as Float32Array;
    expect(data instanceof Float32Array).toBe(false);
    const bytes = writeSafetensors({ a: { dtype: "F32", shape: [2], data } });
    expect(readSafetensors(bytes).tensors.get("a")?.data).toEqual(Float32Array.of(1, 2));
    const foreign = runInNewContext("new Uint8Array(length)", { length: bytes.length }) as Uint8Array;
    foreign.set(bytes);
    expect(readSafetensors(foreign).tensors.size).toBe(1);
    expect(readSafetensors(foreign.buffer).tensors.size).toBe(1);
    expect(await loadBytes(foreign.buffer)).toEqual(bytes);
  });

  test("a Buffer, which is a view of shared pool memory", () => {
    const bytes = Buffer.from(
      writeSafetensors({ a: { dtype: "U8", shape: [2], data: Uint8Array.of(1, 2) } }),
    );
    const data = readSafetensors(bytes).tensors.get("a")?.data as Uint8Array;
    bytes.fill(0);
    expect([...data]).toEqual([1, 2]);
    expect(data.buffer.byteLength).toBe(2);
  });
});
