/** A GPU that computes nothing, and takes as long as it is told to: on a clock that stands still otherwise. */
import { vi } from "vitest";

export interface Speeds {
  /** From a submit until it is known to be done, in ms, if there is nothing in it. */
  readonly roundTripMs: number;
  readonly dispatchMs: number;
  readonly uploadBytesPerMs: number;
  readonly readbackBytesPerMs: number;
  /** How far apart the times are that the clock tells, which goes on while it is read; any, if left out. */
  readonly tickMs?: number;
  /** What a shader takes beyond that. */
  readonly shaderMs?: (code: string) => number;
}

/** What it takes to read a clock that ticks. */
const READ_MS = 1e-4;

/** A `GPU`. `performance.now()` tells its time until mocks are restored. */
export function playedGpu(speeds: Speeds): GPU {
  let now = 1000;
  const { tickMs } = speeds;
  vi.spyOn(performance, "now").mockImplementation(() => {
    if (!tickMs) return now;
    now += READ_MS;
    return now - (now % tickMs);
  });
  const MAP_READ = 1;
  const limits = {
    ...{ maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27 },
    ...{ maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupSizeX: 256 },
  };
  let waiting = 0;
  const createBuffer = ({ size, usage }: GPUBufferDescriptor) => ({
    size,
    usage,
    async mapAsync() {},
    getMappedRange: (offset = 0, bytes = size - offset) => new ArrayBuffer(bytes),
    unmap() {},
    destroy() {},
  });
  const createCommandEncoder = () => {
    let ms = 0;
    let shader = "";
    return {
      beginComputePass: () => ({
        setPipeline: ({ code }: { code: string }) => {
          shader = code;
        },
        setBindGroup() {},
        dispatchWorkgroups() {
          ms += speeds.dispatchMs + (speeds.shaderMs?.(shader) ?? 0);
        },
        end() {},
      }),
      copyBufferToBuffer(_from: GPUBuffer, _offset: number, to: GPUBuffer, _to: number, bytes: number) {
        if (to.usage & MAP_READ) ms += bytes / speeds.readbackBytesPerMs;
      },
      finish: () => ms,
    };
  };
  const handle = {
    limits,
    lost: new Promise(() => {}),
    pushErrorScope() {},
    popErrorScope: async () => null,
    createBuffer,
    createBindGroup: () => ({}),
    createShaderModule: ({ code }: GPUShaderModuleDescriptor) => ({ code }),
    createComputePipelineAsync: async ({ compute }: GPUComputePipelineDescriptor) => ({
      code: (compute.module as unknown as { code: string }).code,
      getBindGroupLayout: () => ({}),
    }),
    createCommandEncoder,
    queue: {
      writeBuffer(
        _to: GPUBuffer,
        _offset: number,
        values: Float32Array,
        start = 0,
        count = values.length - start,
      ) {
        waiting += (count * values.BYTES_PER_ELEMENT) / speeds.uploadBytesPerMs;
      },
      submit(given: unknown[]) {
        now += speeds.roundTripMs + waiting + (given as number[]).reduce((sum, ms) => sum + ms, 0);
        waiting = 0;
      },
      async onSubmittedWorkDone() {},
    },
    destroy() {},
  };
  const adapter = { limits, info: { vendor: "played" }, requestDevice: async () => handle };
  return { requestAdapter: async () => adapter } as unknown as GPU;
}
