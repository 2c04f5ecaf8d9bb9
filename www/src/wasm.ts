/** The face of the wasm module, as `src/web.rs` of the crate exports it. Only the worker loads it. */

import init, { Engine } from '../pkg/web_lora.js';
import type { LoadSettings } from './protocol.js';
import type {
  AdapterFiles,
  AdapterInfo,
  AdapterOptions,
  DatasetReport,
  DeviceInfo,
  EngineOptions,
  Forecast,
  GenerateOptions,
  GenerateResult,
  ModelInfo,
  PlanMemoryOptions,
  Products,
  Profile,
  Progress,
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

/** Callbacks may return false to stop. */
type OnProgress = (progress: Progress) => boolean;

/** One engine. Its asynchronous methods must not overlap. */
export interface WasmEngine {
  device(): Omit<DeviceInfo, 'products'>;
  products(): Products;
  loadModel(files: readonly ByteSource[], options: LoadSettings, onProgress: OnProgress): Promise<ModelInfo>;
  planMemory(files: readonly ByteSource[], options: PlanMemoryOptions): Promise<Forecast>;
  loadDataset(file: string, bytes: Uint8Array, options: { maxLength?: number }): DatasetReport;
  clearDataset(): void;
  newAdapter(options: AdapterOptions): AdapterInfo;
  loadAdapter(config: Uint8Array, weights: Uint8Array): AdapterInfo;
  adapterInfo(): AdapterInfo | undefined;
  saveAdapter(): AdapterFiles | Promise<AdapterFiles>;
  startTraining(options: TrainOptions, onProgress: OnProgress): Promise<TrainPlan>;
  /** One optimiser step. Its report may come a step late; the last comes with `done`. */
  trainStep(): Promise<{ done: boolean; report?: StepReport }>;
  /** Of the next step of a training that was started. */
  profile(): Promise<Profile>;
  endTraining(): void;
  generate(options: GenerateOptions, onToken: (text: string) => boolean): Promise<GenerateResult>;
}

/** Compiles the module and asks for a GPU. */
export async function createWasmEngine(options: EngineOptions & { products?: Products | undefined }): Promise<WasmEngine> {
  await init();
  return (await Engine.create(options)) as unknown as WasmEngine;
}
