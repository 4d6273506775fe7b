/** The guides' snippets for browsers, as they stand but for the library's address, against the built package. */
import { expect, test } from "vitest";
import streaming from "../docs/streaming.md?raw";
import threads from "../docs/threads.md?raw";
import { createEngine, initLru, type Lru } from "../src/index.js";

function load(page: string): Promise<Record<string, unknown>> {
  const snippet = /```js browser\n(.*?)```/s.exec(page)?.[1] ?? "";
  const script = snippet
    .replace('"linrec"', `"${location.origin}/dist/index.js"`)
    .replaceAll('"/dist/', `"${location.origin}/dist/`);
  return import(/* @vite-ignore */ URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
}

test("streaming.md: a model listens to an audio node", async () => {
  type Listen = (
    model: Lru,
    context: BaseAudioContext,
    node: AudioNode,
    options: { tokens: number },
  ) => Promise<ReturnType<Lru["forwardStream"]>>;
  const { listen } = (await load(streaming)) as { listen: Listen };
  const engine = await createEngine({ backend: "wasm", threads: 0 });
  const lru = await engine.lru(initLru({ dModel: 1, dState: 4, seed: 1 }));
  const context = new OfflineAudioContext(1, 128 * 40, 16_000);
  const tone = new OscillatorNode(context, { frequency: 440 });
  const heard = await listen(lru, context, tone, { tokens: 1024 });
  tone.start();
  await context.startRendering();
  const { value } = await heard.next();
  expect(value?.y.length).toBe(1024);
  expect(Math.max(...(value?.y ?? []))).toBeGreaterThan(0);
  await engine.dispose();
});

test("threads.md: worker and kernels from addresses of one's own", async () => {
  await load(threads);
});
