import { afterEach, describe, expect, test, vi } from "vitest";
import { loadBytes } from "../src/io/load.js";

const hello = Uint8Array.of(104, 101, 108, 108, 111);

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("loadBytes", () => {
  test("a buffer or a view: the same memory", async () => {
    const view = new Uint8Array(hello.buffer, 1, 3);
    for (const source of [hello.buffer, hello, view, new DataView(hello.buffer, 1, 3)]) {
      const bytes = await loadBytes(source);
      expect(bytes.buffer).toBe(hello.buffer);
      expect(bytes.length).toBe(source.byteLength);
    }
    expect(await loadBytes(view)).toEqual(Uint8Array.of(101, 108, 108));
  });

  test("a Blob and a File", async () => {
    expect(await loadBytes(new Blob([hello]))).toEqual(hello);
    expect(await loadBytes(new File([hello], "hello.bin"))).toEqual(hello);
  });

  test("a Blob or a File that cannot be read, by its name", async () => {
    for (const [blob, says] of [
      [new Blob([hello]), /^The Blob could not be read: moved/],
      [new File([hello], "hello.bin"), /^The file hello\.bin could not be read: moved/],
    ] as const) {
      const cause = new Error("moved");
      blob.arrayBuffer = () => Promise.reject(cause);
      const message = expect.stringMatching(says);
      await expect(loadBytes(blob)).rejects.toMatchObject({ code: "load-failed", message, cause });
    }
  });

  test("a URL, as such and as text", async () => {
    const url = `data:application/octet-stream;base64,${btoa("hello")}`;
    expect(await loadBytes(url)).toEqual(hello);
    expect(await loadBytes(new URL(url))).toEqual(hello);
  });

  test("an HTTP error, by its status", async () => {
    vi.stubGlobal("fetch", () =>
      Promise.resolve(new Response(null, { status: 404, statusText: "Not Found" })),
    );
    await expect(loadBytes("https://example.test/model")).rejects.toMatchObject({
      code: "load-failed",
      message: expect.stringMatching(/https:\/\/example\.test\/model.*404 Not Found/),
    });
  });

  test("no answer, with its cause", async () => {
    const cause = new TypeError("no route");
    vi.stubGlobal("fetch", () => Promise.reject(cause));
    await expect(loadBytes(new URL("https://example.test/"))).rejects.toMatchObject({
      code: "load-failed",
      message: expect.stringMatching(/example\.test.*no route/),
      cause,
    });
  });

  test("detached memory, and what is no source", async () => {
    const gone = hello.slice();
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    await expect(loadBytes(gone)).rejects.toMatchObject({ code: "detached" });
    await expect(loadBytes(gone.buffer)).rejects.toMatchObject({ code: "detached" });
    for (const source of [null, undefined, 7, {}, [1]]) {
      await expect(loadBytes(source as unknown as string)).rejects.toMatchObject({ code: "wrong-dtype" });
    }
  });
});
