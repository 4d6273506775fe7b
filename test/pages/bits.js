// What campaigns/numbers/same-bits.mjs hashes in Node, in a browser: `?library=PATH&seqLens=1,2`. Shown as JSON.
import { hashesOfBuilds } from "../../campaigns/numbers/hashes.mjs";

const query = new URLSearchParams(location.search);
const library = new URL(query.get("library"), location.href).href;
const seqLens = query.get("seqLens").split(",").map(Number);
const run = async () => ({
  isolated: crossOriginIsolated,
  result: await hashesOfBuilds(await import(library), seqLens),
});
document.body.textContent = JSON.stringify(await run().catch((error) => ({ error: String(error) })));
