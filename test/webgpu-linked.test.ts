/** Networks whose rate changes on a GPU that computes nothing: when it is asked for what, and what is left where it fails. */
import { afterEach, describe, expect, test, vi } from "vitest";
import type { ForwardJob, Linked } from "../src/backend.js";
import { buildProgram } from "../src/models/build.js";
import { Chain } from "../src/networks/chain.js";
import { inputWidth, type Network, outputWidth } from "../src/program.js";
import { Stop } from "../src/runtime/signal.js";
import { State, stateLayout } from "../src/state.js";
import { WebgpuBackend } from "../src/webgpu/backend.js";
import { openDevice } from "../src/webgpu/device.js";
import { plainTiles } from "../src/webgpu/tiles.js";
import { randomClassifier, randomUnet } from "./support/lrnnx.js";
import { playedGpu } from "./support/playedGpu.js";

afterEach(() => vi.restoreAllMocks());

const unet = randomUnet(3);
const classifier = randomClassifier(2);
const networkOf = ({ checkpoint, spec }: typeof unet) => buildProgram(checkpoint, {}, spec);

/** So many bytes that a segment has few tokens. */
const SCRATCH = 2 ** 16;

const speeds = { roundTripMs: 0.1, dispatchMs: 0.01, uploadBytesPerMs: 1e6, readbackBytesPerMs: 1e6 };

/** A GPU whose maps come a turn of the event loop later, and what it is asked for. */
async function watched() {
  const opened = await openDevice(playedGpu(speeds));
  if ("reason" in opened) throw new Error(opened.reason);
  const { device } = opened;
  const { handle } = device;
  const seen = {
    /** "submit 1", "mapped 1", "uploads held0.0", ... */
    events: [] as string[],
    made: 0,
    /** Buffers that have not been destroyed. */
    live: new Set<GPUBuffer>(),
    submits: 0,
    maps: 0,
    scopes: 0,
    /** Whether a map comes. */
    answers: true,
    /** The number of an error scope that finds that there is no memory. */
    fails: 0,
  };
  const create = handle.createBuffer.bind(handle);
  const labels = new Map<GPUBuffer, string>();
  handle.createBuffer = (descriptor) => {
    const buffer = create(descriptor);
    let gone: (error: Error) => void = () => {};
    const destroyed = new Promise<undefined>((_, reject) => {
      gone = reject;
    });
    destroyed.catch(() => {});
    buffer.mapAsync = async () => {
      const nth = ++seen.maps;
      const turn = new Promise<undefined>((come) => setTimeout(() => seen.answers && come(undefined)));
      await Promise.race([turn, destroyed]);
      seen.events.push(`mapped ${nth}`);
      return undefined;
    };
    buffer.destroy = () => {
      seen.live.delete(buffer);
      gone(new Error("destroyed"));
      return undefined;
    };
    labels.set(buffer, descriptor.label ?? "");
    seen.live.add(buffer);
    seen.made++;
    return buffer;
  };
  const [submit, write] = [
    handle.queue.submit.bind(handle.queue),
    handle.queue.writeBuffer.bind(handle.queue),
  ];
  handle.queue.submit = (commands) => {
    seen.events.push(`submit ${++seen.submits}`);
    return submit(commands);
  };
  handle.queue.writeBuffer = (...given: Parameters<typeof write>) => {
    const label = labels.get(given[0]) as string;
    if (label) seen.events.push(`uploads ${label}`);
    return write(...given);
  };
  handle.popErrorScope = async () =>
    ++seen.scopes === seen.fails ? ({ message: "no memory" } as GPUError) : null;
  return { backend: new WebgpuBackend(device, plainTiles), device, seen };
}

/** Rows of `segments` segments, the first a token shorter. */
function jobOf(network: Network, linked: Linked, segments: number, given: Partial<ForwardJob> = {}) {
  const batch = 2;
  const seqLen = segments * linked.segmentTokens(batch, given.timesteps !== undefined);
  const outputs = network.stages.some(({ kind }) => kind === "pool") ? 1 : seqLen;
  return {
    ...{ batch, seqLen, lengths: Int32Array.of(seqLen - 1, seqLen), threads: 0 },
    ...{ signal: undefined, onProgress: undefined, state: new State(stateLayout(network), batch) },
    x: new Float32Array(batch * seqLen * inputWidth(network)),
    y: new Float32Array(batch * outputs * outputWidth(network)),
    ...given,
    done: new Int32Array(batch),
  } satisfies ForwardJob;
}

/** The same, each token one unit after the one before. */
function timedJobOf(network: Network, linked: Linked) {
  const timesteps = new Float32Array(2 * linked.segmentTokens(2, true)).fill(1);
  return jobOf(network, linked, 1, { timesteps });
}

const run = (network: Network, linked: Linked, job: ForwardJob) =>
  new Chain(network, [], false, linked).forward(job);

describe.each([
  { name: "U-Net", made: unet },
  { name: "classifier", made: classifier },
])("$name", ({ made }) => {
  const network = networkOf(made);

  test("each segment is submitted before the one before it has come back, and two at most are under way", async () => {
    const { backend, seen } = await watched();
    const linked = await backend.prepareLinked(network, SCRATCH);
    const [segments, at] = [5, (event: string) => seen.events.indexOf(event)];
    await run(network, linked, jobOf(network, linked, segments));
    for (let n = 1; n < segments; n++) {
      expect(at(`submit ${n}`)).toBeGreaterThanOrEqual(0);
      expect(at(`submit ${n + 1}`), `segment ${n + 1}`).toBeLessThan(at(`mapped ${n}`));
      if (n > 1) expect(at(`submit ${n + 1}`), `segment ${n + 1}`).toBeGreaterThan(at(`mapped ${n - 1}`));
    }
    // What the last windows of the row that ends first give comes of a copy of what is held.
    expect(seen.submits).toBe(made === unet ? segments : segments + 1);
    const uploads = seen.events.slice(0, at(`submit ${segments}`)).filter((event) => /held/.test(event));
    expect(uploads.length).toBeGreaterThan(1);
    expect(new Set(uploads).size, "what is held goes up once").toBe(uploads.length);
    backend.dispose();
  });

  test("memory does not grow with the segments", async () => {
    const { backend, seen } = await watched();
    const linked = await backend.prepareLinked(network, SCRATCH);
    await run(network, linked, jobOf(network, linked, 3));
    const before = [seen.made, seen.live.size];
    const bytes = [...seen.live].reduce((sum, { size }) => sum + size, 0);
    await run(network, linked, jobOf(network, linked, 9));
    expect([seen.made, seen.live.size]).toEqual(before);
    expect([...seen.live].reduce((sum, { size }) => sum + size, 0)).toBe(bytes);
    linked.dispose();
    expect(seen.live.size).toBe(0);
    backend.dispose();
  });
});

test("rows go in the groups that they began in, though the GPU is found to be faster meanwhile", async () => {
  const { backend, device, seen } = await watched();
  const network = networkOf(classifier);
  const linked = await backend.prepareLinked(network, SCRATCH);
  const submits = async (onProgress?: () => void) => {
    device.flopsPerMs = 1; // a row at a time
    const before = seen.submits;
    const lengths = new Int32Array(2).fill(5 * linked.segmentTokens(2, false));
    const job = jobOf(network, linked, 5, { onProgress, lengths });
    await run(network, linked, job);
    expect(job.done).toEqual(lengths);
    return seen.submits - before;
  };
  const steady = await submits();
  expect(steady).toBeGreaterThan(5);
  const faster = () => {
    device.flopsPerMs = 1e12;
  };
  expect(await submits(faster)).toBe(steady);
  backend.dispose();
});

describe("what fails leaves nothing of itself", () => {
  const network = networkOf(unet);
  const outOfMemory = { code: "out-of-memory" };

  test("stopped after its first segment: that is done, and no more", async () => {
    const { backend, seen } = await watched();
    const linked = await backend.prepareLinked(network, SCRATCH);
    const signal = new Stop();
    const job = jobOf(network, linked, 5, { signal, onProgress: () => signal.abort("enough") });
    await expect(run(network, linked, job)).rejects.toMatchObject({ code: "aborted" });
    const tokens = job.seqLen / 5;
    expect([...job.done]).toEqual([tokens, tokens]);
    expect(seen.submits).toBe(2);
    expect(job.state.parts[0]?.count[1]).toBe(tokens);
    backend.dispose();
  });

  test("a submit that is refused: what was submitted before it is done, and another forward works", async () => {
    const { backend, seen } = await watched();
    const linked = await backend.prepareLinked(network, SCRATCH);
    const scopes = seen.scopes;
    await run(network, linked, jobOf(network, linked, 5));
    // Three to make room for each segment, and three to run it.
    expect(seen.scopes - scopes).toBe(5 * 6);
    seen.fails = seen.scopes + 3 * 6 + 4;
    const job = jobOf(network, linked, 5);
    await expect(run(network, linked, job)).rejects.toMatchObject({ code: "gpu-failed" });
    const tokens = job.seqLen / 5;
    expect([...job.done]).toEqual([3 * tokens, 3 * tokens]);
    expect(job.state.parts[0]?.count[1]).toBe(3 * tokens);
    await run(network, linked, job);
    expect([...job.done]).toEqual([...job.lengths]);
    backend.dispose();
  });

  test("no memory for any of its weights: the others' is given back", async () => {
    const { backend, seen } = await watched();
    let failed = 0;
    for (let fails = 2; ; fails += 3) {
      seen.fails = seen.scopes + fails;
      const linked = await backend.prepareLinked(network, SCRATCH).catch((error) => error);
      if (!(linked instanceof Error)) {
        expect(seen.live.size).toBeGreaterThan(0);
        break;
      }
      failed++;
      expect(linked).toMatchObject(outOfMemory);
      await vi.waitFor(() => expect(seen.live.size).toBe(0));
    }
    expect(failed).toBeGreaterThan(5);
    backend.dispose();
  });

  test("no memory for the weights of tokens with timesteps: they are loaded again when next wanted", async () => {
    const { backend, seen } = await watched();
    const linked = await backend.prepareLinked(network, SCRATCH);
    const plain = new Set(seen.live);
    seen.fails = seen.scopes + 2;
    await expect(run(network, linked, timedJobOf(network, linked))).rejects.toMatchObject(outOfMemory);
    await vi.waitFor(() => expect(seen.live).toEqual(plain));
    const job = timedJobOf(network, linked);
    await run(network, linked, job);
    expect([...job.done]).toEqual([...job.lengths]);
    const { made } = seen;
    await run(network, linked, timedJobOf(network, linked));
    expect(seen.made).toBe(made);
    linked.dispose();
    await vi.waitFor(() => expect(seen.live.size).toBe(0));
    backend.dispose();
  });

  test("disposed of while segments are under way, or weights are loaded", async () => {
    for (const timed of [false, true]) {
      const { backend, seen } = await watched();
      const linked = await backend.prepareLinked(network, SCRATCH);
      seen.answers = false;
      const { made } = seen;
      const job = timed ? timedJobOf(network, linked) : jobOf(network, linked, 5);
      const forward = run(network, linked, job);
      const started = () => expect(timed ? seen.made : seen.submits).toBeGreaterThan(timed ? made : 1);
      await vi.waitFor(started);
      linked.dispose();
      linked.dispose();
      await expect(forward).rejects.toMatchObject({ code: "disposed" });
      expect([...job.done]).toEqual([0, 0]);
      await vi.waitFor(() => expect(seen.live.size).toBe(0));
      await expect(run(network, linked, job)).rejects.toMatchObject({ code: "disposed" });
      expect(seen.live.size).toBe(0);
      backend.dispose();
    }
  });
});
