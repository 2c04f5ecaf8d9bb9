/** The face of the wasm module, as `src/web.rs` of the crate exports it. Only the worker loads it. */

import init, { Engine } from '../pkg/web_lora.js';
import type { DataFile } from './data-files.js';
import type { OpenedMerged } from './merged.js';
import type { LoadSettings, Shelf, WeightedSource } from './protocol.js';
import type {
  AdapterEntry,
  AdapterFiles,
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
  TrainOptions,
  TrainPlan,
  TrainStep,
} from './types.js';

/** Bytes that are somewhere else, read a piece at a time. */
export interface ByteSource {
  readonly name: string;
  readonly size: number;
  /** Exactly `length` bytes at `offset`. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** A step as the engine reports it: what it costs in time is the worker's to measure. */
export type StepReport = Omit<TrainStep, 'tokensPerSecond' | 'secondsLeft'>;

/** Options of a training that are the engine's; the others are the worker's. */
export type EngineTrainOptions = Omit<TrainOptions, 'samplePrompts' | 'sampleSteps' | 'saveSteps'>;

/** Callbacks may return false to stop. */
type OnProgress = (progress: Progress) => boolean;

/** One engine. Its asynchronous methods must not overlap. */
export interface WasmEngine {
  device(): Omit<DeviceInfo, 'products'>;
  products(): Products;
  loadModel(files: readonly ByteSource[], options: LoadSettings, onProgress: OnProgress): Promise<ModelInfo>;
  planMemory(files: readonly ByteSource[], options: PlanMemoryOptions): Promise<Forecast>;
  loadDataset(files: readonly DataFile[], evalFiles: readonly DataFile[], options: DataSettings): DatasetReport;
  inspectData(file: DataFile): DataSummary;
  clearDataset(): void;
  newAdapter(options: AdapterOptions): Promise<AdapterInfo>;
  loadAdapter(config: Uint8Array, weights: Uint8Array): AdapterInfo;
  /** PEFT's two files of one in llama.cpp's format, for the loaded model. */
  readAdapterGguf(file: ByteSource): Promise<AdapterFiles>;
  adapterInfo(): AdapterInfo | undefined;
  saveAdapter(): AdapterFiles | Promise<AdapterFiles>;
  exportAdapter(format: string): Promise<ExportedFile[]>;
  merge(options: MergeOptions): Promise<WasmMerged>;
  addAdapter(name: string, from: AdapterFrom | undefined): Promise<AdapterInfo>;
  useAdapter(name: string | undefined): Promise<AdapterInfo | undefined>;
  listAdapters(): AdapterEntry[];
  shelf(): Shelf;
  restoreShelf(shelf: Shelf): void;
  removeAdapter(name: string): Promise<undefined>;
  inspectAdapter(from: AdapterFrom | undefined): Promise<AdapterSpectrum>;
  compressAdapter(options: CompressOptions, from: AdapterFrom | undefined): Promise<RebuiltAdapter>;
  combineAdapters(parts: readonly WeightedSource[], options: CombineOptions): Promise<RebuiltAdapter>;
  startTraining(options: EngineTrainOptions, onProgress: OnProgress): Promise<TrainPlan>;
  /**
   * One optimiser step, or one pass of an evaluation that is due. A report may come a step late; the last comes with
   * `done`.
   */
  trainStep(): Promise<{ done: boolean; stoppedEarly: boolean; report?: StepReport; evaluation?: EvalStep }>;
  /** The training as bytes, for one that is started with the same options later. */
  saveState(): Promise<Uint8Array<ArrayBuffer>>;
  loadState(state: Uint8Array): Promise<void>;
  forwardBackward(examples: Uint32Array, weight: number): Promise<BatchReport>;
  optimStep(options: OptimOptions): Promise<OptimReport>;
  evaluate(options: EvaluateOptions, onProgress: OnProgress): Promise<Evaluation>;
  /** Of the next step of a training that was started. */
  profile(): Promise<Profile>;
  endTraining(): void;
  generate(options: GenerateOptions, onToken: (text: string) => boolean): Promise<GenerateResult>;
  logits(options: LogitsOptions): Promise<Float32Array<ArrayBuffer>>;
}

/** A merged model, which goes on being what it was whatever its engine does. */
export interface WasmMerged {
  report(): Omit<OpenedMerged, 'id'>;
  read(file: number, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  free(): void;
}

/** Compiles the module and asks for a GPU. */
export async function createWasmEngine(options: EngineOptions & { products?: Products | undefined }): Promise<WasmEngine> {
  await init();
  return (await Engine.create(options)) as unknown as WasmEngine;
}

/** The same engine, whose promises reject when it dies: a panic would leave them as they are for ever. */
export function mortal(engine: WasmEngine, death: Promise<never>): WasmEngine {
  const get = (_: WasmEngine, name: keyof WasmEngine) => {
    const method = engine[name] as (...args: unknown[]) => unknown;
    return (...args: unknown[]) => {
      const result = method.apply(engine, args);
      return result instanceof Promise ? Promise.race([result, death]) : result;
    };
  };
  return new Proxy(engine, { get } as ProxyHandler<WasmEngine>);
}
