/** The page: one engine, three parts. */
import { createEngine } from "linrec";
import { loadDigits } from "./data.js";
import { showDisc } from "./disc.js";
import { element, messageOf } from "./dom.js";
import { showDraw } from "./draw.js";
import { showWhy } from "./why.js";

try {
  const [engine, data] = await Promise.all([createEngine(), loadDigits()]);
  const model = await engine.model(data.network);
  showDraw(engine, model, data);
  showWhy(engine);
  showDisc(engine, data.network);
  document.documentElement.dataset["ready"] = "true";
} catch (error) {
  const failure = element("failure", HTMLElement);
  failure.hidden = false;
  failure.textContent = `This page could not start: ${messageOf(error)}`;
}
