/**
 * A GPU that times every dispatch of whoever uses it: an object like `navigator.gpu` for the option `gpu` of createEngine. What
 * it times is the library as it is, kernel by kernel by the names of its pipelines; nothing in the library knows of it.
 */

/** GPUBufferUsage and GPUMapMode by value: Node has no such globals. */
export const usage = { MAP_READ: 1, COPY_SRC: 4, COPY_DST: 8, STORAGE: 128, QUERY_RESOLVE: 512 };
export const MAP_READ = 1;

/** Dispatches of one set of queries: WebGPU allows 4096 queries in a set. */
const SET = 1024;

/**
 * @param {GPU} gpu
 * @param {{ timestamps?: boolean }} options timestamps: false for wall time around submits in place of timestamp queries
 */
export function timedGpu(gpu, { timestamps = true } = {}) {
  const timer = new Timer();
  const requestAdapter = async (...args) => {
    const adapter = await gpu.requestAdapter(...args);
    return (
      adapter &&
      around(adapter, { requestDevice: (request) => openDevice(adapter, request, timer, timestamps) })
    );
  };
  return { gpu: around(gpu, { requestAdapter }), timer };
}

async function openDevice(adapter, request = {}, timer, wanted) {
  const timestamps = wanted && adapter.features.has("timestamp-query");
  const requiredFeatures = [...(request.requiredFeatures ?? []), ...(timestamps ? ["timestamp-query"] : [])];
  const device = await adapter.requestDevice({ ...request, requiredFeatures });
  timer.method = timestamps ? "timestamp queries" : "wall time around submits";
  const names = new WeakMap();
  const named = (descriptor, pipeline) => {
    names.set(pipeline, descriptor.label || descriptor.compute.entryPoint);
    return pipeline;
  };
  return around(device, {
    createComputePipeline: (descriptor) => named(descriptor, device.createComputePipeline(descriptor)),
    createComputePipelineAsync: async (descriptor) =>
      named(descriptor, await device.createComputePipelineAsync(descriptor)),
    createCommandEncoder: (descriptor) => {
      if (!timer.on) return device.createCommandEncoder(descriptor);
      return (timestamps ? queriedEncoder : splitEncoder)(device, descriptor, names);
    },
    queue: around(device.queue, { submit: (buffers) => submit(device, buffers, timer) }),
  });
}

/** `target`, but for what `own` has in its place. */
function around(target, own) {
  return new Proxy(target, {
    get(_, key) {
      if (Object.hasOwn(own, key)) return own[key];
      const value = target[key];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** What was dispatched while it was on. */
class Timer {
  /** How times are taken; known once a device is open. */
  method = "";
  on = false;
  #pending = [];

  add(records) {
    this.#pending.push(records);
  }

  /** Runs work and gives its dispatches: [{ name, groups, start, end }], in ms of the GPU's clock, in their order. */
  async during(work) {
    this.on = true;
    try {
      await work();
    } finally {
      this.on = false;
    }
    return (await Promise.all(this.#pending.splice(0))).flat();
  }
}

/** What a command buffer of ours is, beside the real one. */
const timed = new WeakMap();

function submit(device, buffers, timer) {
  for (const buffer of buffers) {
    const { parts = [{ buffer }], read } = timed.get(buffer) ?? {};
    if (read) {
      device.queue.submit([buffer]);
      timer.add(read());
    } else if (parts.length === 1 && !parts[0].record) {
      device.queue.submit([parts[0].buffer]);
    } else {
      timer.add(submitApart(device, parts));
    }
  }
}

/** Each part by itself, one when the other is done: as near as a clock on this side comes. */
function submitApart(device, parts) {
  let before = performance.now();
  return Promise.all(
    parts.map(async ({ buffer, record }) => {
      device.queue.submit([buffer]);
      await device.queue.onSubmittedWorkDone();
      const [start, end] = [before, performance.now()];
      before = end;
      return record ? [{ ...record, start, end }] : [];
    }),
  ).then((records) => records.flat());
}

/** Passes that know what is set, and hand each dispatch on with it. */
function passOf(names, dispatch) {
  const groups = new Map();
  let pipeline;
  const run = (count, call) =>
    dispatch({ name: names.get(pipeline) ?? "?", groups: count }, (pass) => {
      pass.setPipeline(pipeline);
      for (const [index, args] of groups) pass.setBindGroup(index, ...args);
      call(pass);
    });
  return {
    setPipeline: (value) => {
      pipeline = value;
    },
    setBindGroup: (index, ...args) => groups.set(index, args),
    dispatchWorkgroups: (x, y = 1, z = 1) => run(x * y * z, (pass) => pass.dispatchWorkgroups(x, y, z)),
    dispatchWorkgroupsIndirect: (...args) =>
      run(undefined, (pass) => pass.dispatchWorkgroupsIndirect(...args)),
    end() {},
  };
}

/** Gives each dispatch a pass of its own with a timestamp at either end. */
function queriedEncoder(device, descriptor, names) {
  const encoder = device.createCommandEncoder(descriptor);
  const records = [];
  const sets = [];
  const beginComputePass = () =>
    passOf(names, (record, run) => {
      const at = records.push(record) - 1;
      if (at % SET === 0) sets.push(device.createQuerySet({ type: "timestamp", count: 2 * SET }));
      const pass = encoder.beginComputePass({
        timestampWrites: {
          querySet: sets.at(-1),
          beginningOfPassWriteIndex: 2 * (at % SET),
          endOfPassWriteIndex: 2 * (at % SET) + 1,
        },
      });
      run(pass);
      pass.end();
    });
  const finish = (...args) => {
    if (records.length === 0) return encoder.finish(...args);
    const size = 16 * SET * sets.length;
    const times = device.createBuffer({ size, usage: usage.QUERY_RESOLVE | usage.COPY_SRC });
    const readback = device.createBuffer({ size, usage: usage.COPY_DST | usage.MAP_READ });
    sets.forEach((set, i) => {
      const count = 2 * Math.min(SET, records.length - i * SET);
      encoder.resolveQuerySet(set, 0, count, times, 16 * SET * i);
    });
    encoder.copyBufferToBuffer(times, 0, readback, 0, size);
    const buffer = encoder.finish(...args);
    const read = async () => {
      await readback.mapAsync(MAP_READ);
      const ticks = new BigUint64Array(readback.getMappedRange());
      const at = (i) => Number(ticks[i] - ticks[0]) / 1e6;
      const base = Number(ticks[0]) / 1e6;
      const all = records.map((record, i) => ({
        ...record,
        start: base + at(2 * i),
        end: base + at(2 * i + 1),
      }));
      for (const owned of [readback, times, ...sets]) owned.destroy();
      return all;
    };
    timed.set(buffer, { read });
    return buffer;
  };
  return around(encoder, { beginComputePass, finish });
}

/** Cuts its commands where a dispatch begins or ends. */
function splitEncoder(device, descriptor, names) {
  let encoder = device.createCommandEncoder(descriptor);
  const parts = [];
  const cut = (record) => {
    parts.push({ buffer: encoder.finish(), record });
    encoder = device.createCommandEncoder(descriptor);
  };
  const beginComputePass = () =>
    passOf(names, (record, run) => {
      cut();
      const pass = encoder.beginComputePass();
      run(pass);
      pass.end();
      cut(record);
    });
  const finish = () => {
    parts.push({ buffer: encoder.finish() });
    const token = {};
    timed.set(token, { parts });
    return token;
  };
  return new Proxy(
    {},
    {
      get(_, key) {
        if (key === "beginComputePass") return beginComputePass;
        if (key === "finish") return finish;
        const value = encoder[key];
        return typeof value === "function" ? value.bind(encoder) : value;
      },
    },
  );
}
