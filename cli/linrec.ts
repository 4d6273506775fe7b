#!/usr/bin/env node
/** The command `linrec`. Exit codes: see the help below. */
import { isLinrecError } from "linrec";
import { version } from "../package.json";
import { bench } from "./bench.js";
import { check } from "./check.js";
import { inspect } from "./inspect.js";
import { run } from "./run.js";
import { serve } from "./serve.js";
import { UsageError } from "./usage.js";

const help = `linrec: Linear Recurrent Units for web and Node

  linrec run MODEL.safetensors INPUT.npy -o OUTPUT.npy   run a model over a file, however large
  linrec inspect MODEL.safetensors                       its stages, its eigenvalues, how long it remembers
  linrec check                                           test every backend against float64 on this machine
  linrec bench                                           predicted and measured times on this machine
  linrec serve                                           the page: draw a digit, see why a backend was chosen

Options
  -o, --output FILE    run: where y goes, float32
      --backend NAME   auto (default), wasm, webgpu or reference; a name is a demand
      --threads N      auto (default), or how many worker threads; 0 is none
      --spec JSON      run, inspect: how to read a checkpoint that does not say it, '{"architecture": "lrnnx/classifier"}'
      --port N         serve: 8080 (default), or the next that is free
      --host NAME      serve: localhost (default)
  -q, --quiet          no progress bar, no summary
  -h, --help           this
  -v, --version        the version

INPUT.npy holds [tokens, features] or [batch, tokens, features] in C order: float32, float64, or integers of up to 64 bits.
OUTPUT.npy holds the same with the model's output features, or [features] a sequence of a model that pools.

Exit codes: 0 done; 1 it failed, or a backend is wrong (the message says what to do); 2 the command line is wrong;
130 interrupted.
`;

const commands = { run, inspect, check, bench, serve } as const;
const known = `It is one of ${Object.keys(commands).join(", ")}.`;

async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args;
  if (args.some((arg) => arg === "-h" || arg === "--help") || name === "help") {
    process.stdout.write(help);
    return 0;
  }
  if (name === "-v" || name === "--version") {
    console.log(version);
    return 0;
  }
  if (name === undefined) throw new UsageError(`No command. ${known}`);
  if (!Object.hasOwn(commands, name))
    throw new UsageError(`There is no command ${JSON.stringify(name)}. ${known}`);
  return commands[name as keyof typeof commands](rest);
}

// Who reads what is printed may stop: `linrec check | head -1`.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const { code, message } = error as { code?: string; message?: string };
  // parseArgs throws plain errors with such codes.
  const usage = error instanceof UsageError || String(code).startsWith("ERR_PARSE_ARGS");
  const interrupted = isLinrecError(error) && code === "aborted";
  const says = interrupted ? "interrupted; nothing was written." : (message ?? error);
  console.error(`linrec: ${says}${usage ? "\n`linrec --help` shows how it is used." : ""}`);
  process.exitCode = usage ? 2 : interrupted ? 130 : 1;
}
