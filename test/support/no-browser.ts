// Stands in for the browser tests where there is no browser (vitest.config.ts), so that they show as skipped with the
// reason, never as absent and never as green.
import { inject, test } from "vitest";

test("every test of this project in a browser", (context) => {
  const reason = inject("noBrowser");
  console.warn(`The browser tests are skipped: ${reason}.`); // most reporters leave the reason out
  context.skip(reason);
});

declare module "vitest" {
  interface ProvidedContext {
    noBrowser: string;
  }
}
