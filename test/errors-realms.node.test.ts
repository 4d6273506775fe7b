import { runInNewContext } from "node:vm";
import { test } from "vitest";
import { checkForeignRealm } from "./support/realms.js";

test("typed arrays of another context are accepted", async () => {
  await checkForeignRealm(runInNewContext("Float32Array"), runInNewContext("Uint8Array"));
});
