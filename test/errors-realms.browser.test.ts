import { test } from "vitest";
import { checkForeignRealm } from "./support/realms.js";

test("typed arrays of an iframe are accepted", async () => {
  const frame = document.body.appendChild(document.createElement("iframe"));
  const realm = frame.contentWindow as unknown as typeof globalThis;
  await checkForeignRealm(realm.Float32Array, realm.Uint8Array);
  frame.remove();
});
