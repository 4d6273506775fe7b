// What a page of test/pages shows in each browser that is here.
import { fileURLToPath } from "node:url";
import { browsers } from "../tools/drivers.mjs";
import { isolated, serve } from "../tools/serve.mjs";

/**
 * @param library of the project, or of the copy of it that has a bug: its pages are opened
 * @param page file and query, on a site that is cross-origin isolated
 * @returns by the browser's name its version and what the page shows; and why which ones are absent
 */
export async function inBrowsers(library, page) {
  const site = await serve(fileURLToPath(new URL("../", library)), isolated);
  const shown = {};
  const absent = [];
  try {
    for (const [name, { missing, start }] of Object.entries(browsers)) {
      const reason = missing();
      if (reason) {
        absent.push(reason);
        continue;
      }
      const driven = await start();
      try {
        const text = await driven.show(`${site.url}test/pages/${page}&library=/dist/index.js`);
        shown[name] = { version: driven.version, ...JSON.parse(text) };
      } finally {
        await driven.close();
      }
    }
  } finally {
    site.close();
  }
  return { shown, absent };
}
