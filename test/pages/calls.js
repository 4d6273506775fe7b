// What campaigns/calls/any-calls.mjs does in Node, in a browser: `?library=PATH&from=SEED&networks=COUNT`. Shown as JSON.
import { play } from "../../campaigns/calls/play.mjs";

const query = new URLSearchParams(location.search);
const library = new URL(query.get("library"), location.href).href;
const [from, networks] = ["from", "networks"].map((name) => Number(query.get(name)));
const run = async () => play(await import(library), { from, networks });
document.body.textContent = JSON.stringify(await run().catch((error) => ({ error: String(error?.stack) })));
