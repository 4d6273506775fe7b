/** linrec: Linear Recurrent Units for web and Node. Importing this does no work and needs no DOM. */
export type { Complex, Discretized, Memory } from "./analysis.js";
export type { BidirectionalLru, BidirectionalOptions } from "./bidirectional.js";
export type { AnyCache, HiddenState, InferenceCache, LruCache, ModelCache } from "./cache.js";
export type { Simd, WasmSource } from "./cpu/kernels.js";
export { createEngine, type Engine, type LruSource, type Problem } from "./engine.js";
export { errorCodes, isLinrecError, LinrecError, type LinrecErrorCode } from "./errors.js";
export type {
  BackendOption,
  ForwardOptions,
  ForwardResult,
  ProblemSize,
  Progress,
  StepOptions,
  StreamOptions,
} from "./forwardOptions.js";
export type { GenerateOptions } from "./generate.js";
export type { GpuBuffer } from "./gpuBuffer.js";
export type { GpuCache } from "./gpuCache.js";
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
export type { Lru } from "./lru.js";
export type { BackendStatus } from "./machine.js";
export type { ModelSpec, WindowPooling } from "./models/architecture.js";
export { mergeConjugates } from "./models/conjugates.js";
export { fromLruParams, toLruParams } from "./models/lru.js";
export type { Model, StageInfo } from "./models/model.js";
export type { NestedNumbers, PlainLru, PlainTensor, PlainTensors } from "./models/plain.js";
export { type WriteModelOptions, writeModel } from "./models/write.js";
export type { EngineOptions, FallbackListener } from "./options.js";
export type { BackendName, Input, LruParams } from "./program.js";
export type { Recurrent } from "./recurrent.js";
export type { Candidate, Plan, Verb } from "./scheduler.js";
export type { SelfTestReport, SelfTestResult } from "./selfTest.js";
export type { StreamChunk, StreamSource, StreamTokens, StreamValues } from "./stream.js";
