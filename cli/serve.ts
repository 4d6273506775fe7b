/** `linrec serve`: the page, with the headers that let threads share memory. */
import { createReadStream } from "node:fs";
import { readdir } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { extname } from "node:path";
import { parse, wholeNumber } from "./usage.js";

const folder = new URL("./web/", import.meta.url);
const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/** Ports that are tried after the one that was wanted. */
const TRIES = 20;

export async function serve(args: string[]): Promise<number> {
  const { values } = parse("serve", args, [], ["port", "host"]);
  const host = values.host ?? "localhost";
  const wanted = wholeNumber("port", values.port ?? "8080", 65535);
  // Only these are served, so no path leads out of the folder.
  const files = new Set(await readdir(folder));
  const server = createServer(({ url = "/", method }, response) => {
    const name = url.replace(/[?#].*/s, "").slice(1) || "index.html"; // not as a URL: "//" is none
    const known = files.has(name) && (method === "GET" || method === "HEAD");
    response.writeHead(known ? 200 : 404, {
      "Content-Type": known ? (types[extname(name)] ?? "application/octet-stream") : "text/plain",
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
      "Cache-Control": "no-cache",
    });
    if (!known || method === "HEAD") response.end(known ? "" : "There is no such page.\n");
    else createReadStream(new URL(name, folder)).pipe(response);
  });
  const port = await listen(server, wanted, host);
  console.log(`http://${host}:${port}/   (Ctrl+C ends it)`);
  await new Promise<void>((resolve) => process.once("SIGINT", resolve));
  server.close();
  server.closeAllConnections();
  return 0;
}

async function listen(server: Server, wanted: number, host: string): Promise<number> {
  for (let port = wanted; ; port++) {
    const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      server.once("error", resolve);
      server.listen(port, host, () => {
        server.off("error", resolve);
        resolve(undefined);
      });
    });
    if (!error) return (server.address() as { port: number }).port;
    server.removeAllListeners("error");
    if (error.code !== "EADDRINUSE" || port === wanted + TRIES || port === 65535)
      throw new Error(`No port could be opened on ${host}: ${error.message}. Name another with --port.`);
  }
}
