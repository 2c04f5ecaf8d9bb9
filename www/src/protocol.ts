/** Everything that crosses between the main thread and the worker. Both sides import this and nothing of each other. */

import type { DataFile } from './data-files.js';
import type { ErrorData } from './errors.js';
import type { OpenedMerged } from './merged.js';
import type {
  AdapterEntry,
  AdapterFiles,
  AdapterFormat,
  AdapterFrom,
  AdapterInfo,
  AdapterOptions,
  AdapterSpectrum,
  BatchReport,
  CombineOptions,
  CompressOptions,
  DataSettings,
  DataSummary,
  DatasetReport,
  DeviceInfo,
  EngineOptions,
  EvalStep,
  EvaluateOptions,
  Evaluation,
  ExportedFile,
  Forecast,
  GenerateOptions,
  GenerateResult,
  HubSource,
  LoadModelOptions,
  LogitsOptions,
  MergeOptions,
  ModelInfo,
  OptimOptions,
  OptimReport,
  PlanMemoryOptions,
  Products,
  Profile,
  Progress,
  RebuiltAdapter,
  Sample,
  TrainOptions,
  TrainPlan,
  TrainResult,
  TrainStep,
} from './types.js';

/** Options of `loadModel` that cross to the worker; progress and aborts have messages of their own. */
export type LoadSettings = Omit<LoadModelOptions, 'onProgress' | 'signal'>;

/** A command and what it answers with. Commands run one after another, in the order in which they were sent. */
export interface Commands {
  /** `products`: what was found out on an earlier visit. */
  create: { options: EngineOptions & { products?: Products | undefined }; result: DeviceInfo };
  loadModel: { source: PostedSource; options: LoadSettings; result: ModelInfo };
  planMemory: { source: PostedSource; options: PlanMemoryOptions; result: Forecast };
  loadDataset: {
    files: readonly DataFile[];
    evalFiles: readonly DataFile[];
    options: DataSettings;
    result: DatasetReport;
  };
  inspectData: { file: DataFile; result: DataSummary };
  clearDataset: { result: undefined };
  newAdapter: { options: AdapterOptions; result: AdapterInfo };
  loadAdapter: { files: AdapterFiles; result: AdapterInfo };
  readAdapterGguf: { file: Blob; result: AdapterFiles };
  adapterInfo: { result: AdapterInfo | undefined };
  saveAdapter: { result: AdapterFiles };
  exportAdapter: { format: Exclude<AdapterFormat, 'peft'>; result: ExportedFile[] };
  openMerged: { options: MergeOptions; result: OpenedMerged };
  readMerged: { merged: number; file: number; offset: number; length: number; result: Uint8Array<ArrayBuffer> };
  closeMerged: { merged: number; result: undefined };
  addAdapter: { name: string; from: AdapterFrom | undefined; result: AdapterInfo };
  useAdapter: { name: string | undefined; result: AdapterInfo | undefined };
  listAdapters: { result: AdapterEntry[] };
  removeAdapter: { name: string; result: undefined };
  inspectAdapter: { from: AdapterFrom | undefined; result: AdapterSpectrum };
  compressAdapter: { options: CompressOptions; from: AdapterFrom | undefined; result: RebuiltAdapter };
  combineAdapters: { parts: WeightedSource[]; options: CombineOptions; result: RebuiltAdapter };
  train: { options: TrainOptions; run?: string | undefined; resume?: Uint8Array<ArrayBuffer> | undefined; result: TrainResult };
  /** `shelf`: what a worker that died had beside the run. */
  resumeRun: { run: string; shelf?: Shelf | undefined; result: TrainResult };
  startTraining: { options: TrainOptions; result: TrainPlan };
  forwardBackward: { examples: readonly number[]; weight: number; result: BatchReport };
  optimStep: { options: OptimOptions; result: OptimReport };
  saveState: { result: Uint8Array<ArrayBuffer> };
  loadState: { state: Uint8Array<ArrayBuffer>; result: undefined };
  endTraining: { result: undefined };
  evaluate: { options: EvaluateOptions; result: Evaluation };
  profile: { options: TrainOptions; result: Profile };
  generate: { options: GenerateOptions; result: GenerateResult };
  logits: { options: LogitsOptions; result: Float32Array<ArrayBuffer> };
}

export type CommandName = keyof Commands;
export type CommandArguments<Name extends CommandName> = Omit<Commands[Name], 'result'>;
export type CommandResult<Name extends CommandName> = Commands[Name]['result'];
export type Command = { [Name in CommandName]: { type: Name } & CommandArguments<Name> }[CommandName];

/** For which to be stopped is an end like any other: what there is until then is the result. */
export const ENDS_WHEN_STOPPED: readonly CommandName[] = ['train', 'resumeRun', 'generate'];
/** Which leave all as it was: who no longer wants the answer need not wait for it, even when it is being worked out. */
export const ONLY_TELLS: readonly CommandName[] = [
  'inspectData',
  'adapterInfo',
  'saveAdapter',
  'exportAdapter',
  'listAdapters',
  'inspectAdapter',
  'compressAdapter',
  'combineAdapters',
  'logits',
  'saveState',
];

/** What a training leaves as it was: the name of the adapter in use, and all others. */
export interface Shelf {
  inUse: string | undefined;
  adapters: { name: string | undefined; trainedSteps: number; files: AdapterFiles }[];
}

/** `from` is undefined for the adapter in use. */
export interface WeightedSource {
  from: AdapterFrom | undefined;
  weight: number;
}

/** A model source that survives `postMessage`. */
export type PostedSource = { files: File[] } | { url: string } | { hub: HubSource };

/** Main thread to worker. An abort overtakes the queue and names the command that it ends; so does the wish to save. */
export type ToWorker = { kind: 'command'; id: number; command: Command } | { kind: 'abort'; id: number } | { kind: 'save' };

/** Worker to main thread; `id` is the command's. */
export type FromWorker =
  | { kind: 'result'; id: number; result: CommandResult<CommandName> }
  | { kind: 'error'; id: number; error: ErrorData }
  | { kind: 'event'; id: number; event: CommandEvent }
  /** The engine is gone; every command from here on fails alike. */
  | { kind: 'crashed'; error: ErrorData };

/** What a command says while it runs. */
export type CommandEvent =
  | { type: 'progress'; progress: Progress }
  | { type: 'plan'; plan: TrainPlan }
  | { type: 'step'; step: TrainStep }
  | { type: 'evaluation'; evaluation: EvalStep }
  | { type: 'sample'; sample: Sample }
  | { type: 'run'; run: string; shelf: Shelf }
  | { type: 'saved'; step: number }
  | { type: 'unsaved'; error: ErrorData }
  | { type: 'token'; text: string }
  /** A copy of the adapter under training, for the main thread to keep in case the worker or GPU goes away. */
  | { type: 'adapter'; files: AdapterFiles };
