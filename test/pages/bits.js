// What campaigns/numbers/same-bits.mjs hashes in Node, in a browser: `?library=PATH&seqLens=1,2`. Shown as JSON.
import { hashes } from "../../campaigns/numbers/hashes.mjs";

const query = new URLSearchParams(location.search);
const library = new URL(query.get("library"), location.href).href;
const run = async () => ({
  isolated: crossOriginIsolated,
  result: await hashes(await import(library), library, query.get("seqLens").split(",").map(Number)),
});
document.body.textContent = JSON.stringify(await run().catch((error) => ({ error: String(error) })));
