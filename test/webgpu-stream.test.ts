/** Long sequences on the GPU: in constant memory, and without a pause between the pieces. */
import { expect, test } from "vitest";
import type { ForwardJob } from "../src/backend.js";
import { programOf } from "../src/lruParams.js";
import { State, stateLayout } from "../src/state.js";
import { openWebgpu } from "../src/webgpu/backend.js";
import { READBACKS } from "../src/webgpu/plan.js";
import { changedGpu, onSubmit, shrink } from "./support/gpus.js";
import { floats, hardParams } from "./support/problems.js";

const [dModel, dState] = [2, 3];
const program = programOf(hardParams(dModel, dState, 3), "lru");

/** A GPU of which one binding has 1/2^16 of the bytes that a binding has at least: a sequence is to it what 2^16 are. */
const SHARE = 2 ** 16;
const BINDING = 2 ** 27 / SHARE;

function jobOf(seqLen: number): ForwardJob {
  return {
    ...{
      batch: 1,
      seqLen,
      lengths: Int32Array.of(seqLen),
      threads: 0,
      signal: undefined,
      onProgress: undefined,
    },
    x: floats(seqLen * dModel, 1),
    y: new Float32Array(seqLen * dModel),
    state: new State(stateLayout(program), 1),
  };
}

/**
 * Opens a small GPU, and counts what it is asked for. What comes of a submit is held back until the next one, where
 * `holds` says so of its number, which counts from 1.
 */
async function watchedGpu(
  context: { skip(reason: string): never },
  holds: (submit: number) => boolean = () => false,
) {
  const held: (() => void)[] = [];
  const count = { buffers: 0, bytes: 0, mostBytes: 0, submits: 0, mapped: 0, mostAhead: 0 };
  const changed = await changedGpu((handle) => {
    shrink(handle, BINDING);
    const create = handle.createBuffer.bind(handle);
    handle.createBuffer = (descriptor) => {
      const buffer = create(descriptor);
      count.buffers++;
      count.bytes += descriptor.size;
      count.mostBytes = Math.max(count.mostBytes, count.bytes);
      const [map, destroy] = [buffer.mapAsync.bind(buffer), buffer.destroy.bind(buffer)];
      buffer.mapAsync = async (...args) => {
        const submit = count.submits;
        await map(...args);
        if (holds(submit) && count.submits === submit) await new Promise<void>((goOn) => held.push(goOn));
        count.mapped++;
      };
      buffer.destroy = () => {
        count.bytes -= descriptor.size;
        destroy();
      };
      return buffer;
    };
    onSubmit(handle, () => {
      for (const goOn of held.splice(0)) goOn();
      count.submits++;
      count.mostAhead = Math.max(count.mostAhead, count.submits - count.mapped);
    });
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const opened = await openWebgpu(changed.gpu);
  if ("reason" in opened) return context.skip(opened.reason);
  const runner = await opened.backend.prepare(program, SHARE);
  return { count, runner, dispose: () => opened.backend.dispose() };
}

const seqLen = Math.ceil(1e8 / SHARE);

test("memory does not grow with the sequence, and no buffer is made on the way", async (context) => {
  const { count, runner, dispose } = await watchedGpu(context);
  await runner.forward(jobOf(Math.ceil(seqLen / 10)));
  const { buffers, mostBytes, submits } = count;
  await runner.forward(jobOf(seqLen));
  expect(count).toMatchObject({ buffers, mostBytes });
  expect(mostBytes).toBeLessThan(SHARE);
  expect(count.submits - submits).toBeGreaterThan(10);
  runner.dispose();
  expect(count.bytes).toBe(0);
  dispose();
});

test("no piece is waited for before the next has been submitted", async (context) => {
  let pieces = 0;
  const holds = (submit: number) => submit > pieces && submit < 2 * pieces;
  const { count, runner, dispose } = await watchedGpu(context, holds);
  await runner.forward(jobOf(seqLen));
  pieces = count.submits;
  await runner.forward(jobOf(seqLen));
  expect(count).toMatchObject({ submits: 2 * pieces, mapped: 2 * pieces, mostAhead: READBACKS });
  dispose();
});

test("a step like the one before makes nothing anew: its states, its token, one submit, one readback", async (context) => {
  const calls: string[] = [];
  const changed = await changedGpu((handle) => {
    const watch = <Target extends object>(target: Target, names: (keyof Target)[]) => {
      for (const name of names) {
        const call = (target[name] as (...args: unknown[]) => unknown).bind(target);
        const watched = (...args: unknown[]) => {
          calls.push(String(name));
          return call(...args);
        };
        Object.assign(target, { [name]: watched });
      }
    };
    watch(handle, ["createBuffer", "createBindGroup", "createComputePipelineAsync", "popErrorScope"]);
    watch(handle.queue, ["writeBuffer", "submit", "onSubmittedWorkDone"]);
  });
  if ("reason" in changed) return context.skip(changed.reason);
  const opened = await openWebgpu(changed.gpu);
  if ("reason" in opened) return context.skip(opened.reason);
  const runner = await opened.backend.prepare(program);
  const step = { ...jobOf(1), batch: 1 };
  await runner.forward(step);
  calls.length = 0;
  await runner.forward(step);
  // states, what a mean is divided by, x
  const uploads = Array(3).fill("writeBuffer");
  expect(calls).toEqual([...uploads, "submit", ...Array(3).fill("popErrorScope")]);
  opened.backend.dispose();
});
