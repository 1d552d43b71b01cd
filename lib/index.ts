// The public face of the package: everything a user imports.
export { Adapter } from './adapter/adapter.js'
export { adapterOverlap } from './adapter/overlap.js'
export { toLora } from './adapter/to-lora.js'
export type {
  AdapterInfo,
  FuseOptions,
  FuseResult,
  LoraAdapterInfo,
  LoreftAdapterInfo,
  ModuleOverlap,
  S2ftAdapterInfo,
  S2ftSelection,
  S2ftSlice,
  S2ftUnits,
  SparseAdapterInfo,
  Tensor,
} from './adapter/types.js'
export {
  type Dataset,
  describeReport,
  type EncodeDatasetOptions,
  type EncodedDataset,
  type EncodedSample,
  type EncodeReport,
  encodeDataset,
  type LoadOptions as DatasetOptions,
  loadDataset,
  packBatches,
  splitDataset,
} from './data/index.js'
export { type Job, type JoinOptions, joinJob } from './distributed/job.js'
export { Engine } from './engine/engine.js'
export type * from './engine/engine-types.js'
export { type ErrorCode, S2FTError } from './errors.js'
export { dora, full, galore, lisa, lora, loreft, s2ft, sparse } from './method/index.js'
export type {
  Allocation,
  DoraMethod,
  FullMethod,
  GaloreMethod,
  GaloreOptions,
  LisaMethod,
  LisaOptions,
  LoraMethod,
  LoraOptions,
  LoreftMethod,
  LoreftOptions,
  Method,
  S2ftMethod,
  S2ftOptions,
  Selection,
  SelectionOrder,
  SelectionStrategy,
  SparseMethod,
  SparseOptions,
} from './method/types.js'
export { devices } from './model/devices.js'
export { Model } from './model/model.js'
export type * from './model/types.js'
export type { DType, ModuleKind, NativeDevice as DeviceInfo, Sample } from './native/binding.js'
export {
  adamw,
  coPermute,
  inverseOrder,
  type Matrix,
  partialLinearBackward,
  partialLinearForward,
  type Slice,
  selectionOrder,
} from './ops/index.js'
export type { ServeOptions } from './serve/options.js'
export { serve } from './serve/serve.js'
export type { RunningServer } from './serve/server.js'
export { TextStream, Tokenizer } from './tokenizer/index.js'
export { Trainer } from './trainer/trainer.js'
export type * from './trainer/types.js'
