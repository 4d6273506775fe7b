// @ts-check
// A static file server on a free port of this machine, for pages that tests open.
import { createServer } from "node:http";
import sirv from "sirv";

/** The headers with which a page is cross-origin isolated. */
export const isolated = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/**
 * @param {string} folder
 * @param {Record<string, string>} [headers] sent with every file
 * @returns {Promise<{ url: string, close: () => void }>} `url` ends in a slash
 */
export async function serve(folder, headers = {}) {
  const files = sirv(folder, {
    dev: true, // files are read at every request: they may be built while the server runs
    setHeaders(response) {
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    },
  });
  const server = createServer((request, response) =>
    files(request, response, () => {
      response.writeHead(404).end();
    }),
  );
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const address = /** @type {import("node:net").AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${address.port}/`,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
