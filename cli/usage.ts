/** Reading the command line, and what commands share: opening an engine, a checkpoint, a table on the terminal. */
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import {
  type BackendOption,
  createEngine,
  type Engine,
  isLinrecError,
  type LinrecErrorCode,
  type Model,
  type ModelSpec,
} from "linrec";

/** The command line is wrong: exit code 2. */
export class UsageError extends Error {}

const strings = ["output", "backend", "threads", "spec", "port", "host"] as const;
type Values = { [name in (typeof strings)[number]]?: string } & { quiet?: boolean };

/** The options that a command has, and its other arguments by name. Throws UsageError for anything else. */
export function parse(
  command: string,
  args: string[],
  positionals: readonly string[],
  options: readonly (keyof Values)[],
): { values: Values; files: string[] } {
  const known = Object.fromEntries(
    options.map((name) => [
      name,
      name === "quiet"
        ? { type: "boolean" as const, short: "q" }
        : name === "output"
          ? { type: "string" as const, short: "o" }
          : { type: "string" as const },
    ]),
  );
  const { values, positionals: files } = parseArgs({ args, options: known, allowPositionals: true });
  if (files.length !== positionals.length) {
    const wanted = positionals.length === 0 ? "no files" : positionals.join(" ");
    throw new UsageError(
      `\`linrec ${command}\` takes ${wanted}; got ${files.length === 0 ? "none" : files.join(" ")}.`,
    );
  }
  if ([...files, (values as Values).output].includes("-"))
    throw new UsageError("`-` would be a pipe, and files are read and written at any place. Name a file.");
  return { values: values as Values, files };
}

/** An engine as the options say; what falls back is told on stderr. */
export async function open({ backend = "auto", threads = "auto" }: Values): Promise<Engine> {
  if (!["auto", "wasm", "webgpu", "reference"].includes(backend)) {
    throw new UsageError(`--backend is auto, wasm, webgpu or reference; got ${JSON.stringify(backend)}.`);
  }
  return createEngine({
    backend: backend as BackendOption,
    threads: threads === "auto" ? threads : wholeNumber("threads", threads, 256),
    onFallback: ({ from, to, reason }) =>
      console.error(`linrec: ${to} goes on instead of ${from}: ${reason}`),
  });
}

export function wholeNumber(name: string, text: string, most: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > most) {
    throw new UsageError(`--${name} is a whole number up to ${most}; got ${JSON.stringify(text)}.`);
  }
  return value;
}

export async function openModel(engine: Engine, path: string, spec: string | undefined): Promise<Model> {
  const given = spec === undefined ? undefined : parseSpec(spec);
  const bytes = await readBytes(path);
  try {
    return await engine.model(bytes, given);
  } catch (error) {
    if (!isLinrecError(error)) throw error;
    throw new Error(`${path}: ${error.message}${remedies[error.code] ?? ""}`, { cause: error });
  }
}

/** What helps on a command line, where the library cannot know of one. */
const remedies: { readonly [code in LinrecErrorCode]?: string } = {
  "malformed-file":
    " Save one with safetensors, such as safetensors.torch.save_file(model.state_dict(), path).",
  "unknown-model": ` A spec is given with --spec '{"architecture": "…"}'.`,
};

function parseSpec(text: string): ModelSpec {
  try {
    return JSON.parse(text);
  } catch {
    throw new UsageError(
      `--spec is JSON, such as '{"architecture": "lrnnx/lru"}'; got ${JSON.stringify(text)}.`,
    );
  }
}

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw fileError(path, error);
  }
}

/** An error of the file system, in words that a person can act on. */
export function fileError(path: string, error: unknown): Error {
  const { code, message } = error as { code?: string; message: string };
  const why: Record<string, string> = {
    ENOENT: "there is no such file or folder. Check the path",
    EACCES: "it may not be opened. Check its permissions",
    EISDIR: "it is a folder. Name a file",
    ENOSPC: "the disk is full. Make room, or write elsewhere",
  };
  return new Error(`${path}: ${why[code ?? ""] ?? message}.`, { cause: error });
}

/** Columns as wide as they must be; the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] as number) : cell.padStart(widths[i] as number)));
  return rows.map((row) => line(row).join("  ").trimEnd()).join("\n");
}
