/** linrec: Linear Recurrent Units for web and Node. Importing this does no work and needs no DOM. */

export type { Simd, WasmSource } from "./cpu/kernels.js";
export type { BackendStatus } from "./engine/machine.js";
export type { EngineOptions, FallbackListener } from "./engine/options.js";
export type { SelfTestReport, SelfTestResult } from "./engine/selfTest.js";
export { createEngine, type Engine, type LruSource, type Problem } from "./engine.js";
export { errorCodes, isLinrecError, LinrecError, type LinrecErrorCode } from "./errors.js";
export { type InitLruOptions, initLru } from "./init.js";
export type { BytesSource } from "./io/load.js";
export {
  type Dtype,
  readSafetensors,
  type SafetensorsFile,
  type Tensor,
  type TensorsToWrite,
  toFloat32,
  writeSafetensors,
} from "./io/safetensors.js";
export type { Complex, Discretized, Memory } from "./layers/analysis.js";
export type { BidirectionalLru, BidirectionalOptions } from "./layers/bidirectional.js";
export type { AnyCache, HiddenState, InferenceCache, LruCache, ModelCache } from "./layers/cache.js";
export type {
  BackendOption,
  ForwardOptions,
  ForwardResult,
  ProblemSize,
  Progress,
  StepOptions,
  StreamOptions,
} from "./layers/forwardOptions.js";
export type { GenerateOptions } from "./layers/generate.js";
export type { GpuCache } from "./layers/gpuCache.js";
export type { Recurrent } from "./layers/recurrent.js";
export type { StreamChunk, StreamSource, StreamTokens, StreamValues } from "./layers/stream.js";
export type { Lru } from "./lru.js";
export type { ModelSpec, WindowPooling } from "./models/architecture.js";
export { fromLruParams, toLruParams } from "./models/lru.js";
export type { Model, StageInfo } from "./models/model.js";
export type { NestedNumbers, PlainLru, PlainTensor, PlainTensors } from "./models/plain.js";
export { type WriteModelOptions, writeModel } from "./models/write.js";
export { mergeConjugates } from "./networks/conjugates.js";
export type { BackendName, Input, LruParams } from "./program.js";
export type { GpuBuffer } from "./runtime/gpuBuffer.js";
export type { Candidate, Plan, Verb } from "./scheduler.js";
