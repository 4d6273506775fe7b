/** What makes every promise settle: a breaker's watched promises, a stop's listeners, a queue's tasks. */
import { expect, test } from "vitest";
import { Breaker, untilAborted } from "../src/runtime/breaker.js";
import { Queue } from "../src/runtime/queue.js";
import { Stop } from "../src/runtime/signal.js";

const never = new Promise<never>(() => {});
const outcome = (promise: Promise<unknown>) =>
  Promise.race([
    promise.then(
      (value) => ["fulfilled", value],
      (error) => ["rejected", error],
    ),
    new Promise((resolve) => setTimeout(resolve, 20, "pending")),
  ]);

test("a breaker settles as the work does, until it is broken: then all of it rejects, now and later", async () => {
  const breaker = new Breaker();
  expect(await outcome(breaker.watch(Promise.resolve(1)))).toEqual(["fulfilled", 1]);
  expect(await outcome(breaker.watch(Promise.reject("own")))).toEqual(["rejected", "own"]);
  const watched = [breaker.watch(never), breaker.watch(never)];
  expect(await outcome(watched[0] as Promise<never>)).toBe("pending");
  breaker.break("first");
  breaker.break("second");
  for (const promise of watched) expect(await outcome(promise)).toEqual(["rejected", "first"]);
  // Work that fails later is nobody's unhandled rejection.
  const late = breaker.watch(new Promise((_, reject) => setTimeout(reject, 1, "late")));
  expect(await outcome(late)).toEqual(["rejected", "first"]);
  expect(await outcome(breaker.watch(Promise.resolve(1)))).toEqual(["rejected", "first"]);
  await new Promise((resolve) => setTimeout(resolve, 5));
});

test("work under a signal: its result, its error, or the signal's reason at once; and no listener is left", async () => {
  const stop = new Stop();
  const listeners = new Set<() => void>();
  const signal = {
    get aborted() {
      return stop.aborted;
    },
    get reason() {
      return stop.reason;
    },
    addEventListener: (type: "abort", listener: () => void) => {
      listeners.add(listener);
      stop.addEventListener(type, listener);
    },
    removeEventListener: (type: "abort", listener: () => void) => {
      listeners.delete(listener);
      stop.removeEventListener(type, listener);
    },
  };
  expect(await outcome(untilAborted(Promise.resolve(2), signal))).toEqual(["fulfilled", 2]);
  expect(await outcome(untilAborted(Promise.reject("own"), signal))).toEqual(["rejected", "own"]);
  const pending = untilAborted(never, signal);
  expect(await outcome(pending)).toBe("pending");
  expect(listeners.size).toBe(1);
  stop.abort("enough");
  expect(await outcome(pending)).toEqual(["rejected", "enough"]);
  expect(await outcome(untilAborted(never, signal))).toEqual(["rejected", "enough"]);
  expect(listeners.size).toBe(0);
});

test("a stop tells its listeners once, with the first reason, and not those that left", () => {
  const stop = new Stop();
  let [told, left] = [0, 0];
  const leaves = () => left++;
  stop.addEventListener("abort", () => told++);
  stop.addEventListener("abort", leaves);
  stop.removeEventListener("abort", leaves);
  expect([stop.aborted, stop.reason, told]).toEqual([false, undefined, 0]);
  stop.abort("first");
  stop.abort("second");
  expect([stop.aborted, stop.reason, told, left]).toEqual([true, "first", 1, 0]);
  const silent = new Stop();
  silent.abort(undefined);
  expect(silent.aborted).toBe(true);
});

test("a queue runs one task at a time, in their order, and goes on after one that fails", async () => {
  const queue = new Queue();
  const seen: string[] = [];
  const task = (name: string, ms: number) => async () => {
    seen.push(`${name} begins`);
    await new Promise((resolve) => setTimeout(resolve, ms));
    seen.push(`${name} ends`);
    if (name === "b") throw new Error(name);
    return name;
  };
  const results = await Promise.allSettled([
    queue.run(task("a", 3)),
    queue.run(task("b", 1)),
    queue.run(task("c", 0)),
  ]);
  expect(seen).toEqual(["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
  expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
});
