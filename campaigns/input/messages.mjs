// What a worker is sent by somebody else: pages and extensions can post to any worker that they can reach.
import { floats, lruParams, pick, random, sameResult, undisturbed, watchWorkers } from "../support.mjs";

export default {
  promise:
    "Messages to a worker that are not its engine's change no result and pollute no prototype: at worst it is started anew.",
  how: "50,000 malformed messages (Comlink's GET, SET, APPLY, CONSTRUCT with hostile paths and arguments) go to the workers of an engine between and during its forwards.",
  plants: [
    {
      says: "a fault of a worker is taken for an answer",
      file: "src/cpu/runner.ts",
      find: "if (!isWorkerFault(error)) throw error;",
      replace: "if (isWorkerFault(error)) return;",
    },
  ],
  async run({ linrec, isFull, fail }) {
    const messages = isFull ? 50_000 : 2000;
    const alive = watchWorkers();
    const next = random(3);
    // A short forward the calling thread may have done before a worker begins.
    const params = lruParams(linrec, 96, 96);
    const x = floats(2 * 2200 * 96, 1);
    const {
      oracle,
      expected: [expected],
      ...alone
    } = await undisturbed(linrec, params, [x], { batch: 2 });
    const told = [];
    const engine = await linrec.createEngine({
      backend: "wasm",
      threads: 2,
      onFallback: ({ reason }) => told.push(reason),
    });
    const lru = await engine.lru(params);
    await lru.forward(x, { batch: 2 });
    const raw = (value) => ({ type: "RAW", value });
    const paths = [
      ["__proto__", "polluted"],
      ["constructor", "prototype", "polluted"],
      ["run"],
      ["begin"],
      ["init"],
      ["load"],
      ["unload"],
      ["resume"],
      [],
      ["toString"],
      ["no", "such"],
    ];
    const values = [
      null,
      undefined,
      -1,
      Number.NaN,
      "x",
      {},
      [],
      { program: -1 },
      { id: 0, packed: null },
      { memory: null, module: null },
    ];
    let wrong = 0;
    for (let i = 0; i < messages; i++) {
      const message = pick(next, [
        {
          id: i,
          type: pick(next, ["GET", "SET", "APPLY", "CONSTRUCT", "ENDPOINT", "NONE"]),
          path: pick(next, paths),
          value: raw("yes"),
          argumentList: [raw(pick(next, values))],
        },
        pick(next, values),
        { type: "APPLY" },
        { id: i, type: "APPLY", path: "run", argumentList: 5 },
      ]);
      for (const worker of alive) worker.postMessage(message);
      if (i % 100 === 99) {
        const result = await lru.forward(x, { batch: 2 });
        if (!sameResult(lru, result, oracle, expected)) wrong++;
      }
    }
    if (wrong > 0) fail(`${wrong} forwards gave other bits`);
    await engine.dispose();
    await alone.dispose();
    return {
      messages,
      "forwards between them": messages / 100,
      "of them wrong": wrong,
      "pools given up": told.length,
    };
  },
};
