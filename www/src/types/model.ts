/** Models: where they come from, how they are loaded, what they are. */

import type { HubSource } from './hub.js';

/**
 * Where a model comes from: one `.gguf` file or all parts of one, the files of a Hugging Face folder, a URL of either, or
 * a name on the Hub. A URL of one part stands for all. A URL that does not end in `.gguf` is taken for the folder that
 * holds config.json.
 */
export type ModelSource = File | readonly File[] | string | URL | HubSource;

/** A block type of GGUF that plain numbers can be made into: some 8.5 or 4.5 bits each. */
export type Quantization = 'q8_0' | 'q4_0';

/** How to load a model. By default, as it is. */
export interface LoadModelOptions {
  /** Longest row of tokens, where less than the model's own limit is wanted. */
  contextLength?: number;
  /**
   * Makes the matrices of a model in F32, F16 or BF16 smaller while they are loaded; those whose rows are no multiple
   * of 32 columns stay as they are. Default: all stay.
   */
  quantize?: Quantization;
  /** Called often. */
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
}

/** How far some work has come. */
export interface Progress {
  /** `wait`: another tab is downloading this model. `verify`: what there is of it is read again. */
  phase: 'wait' | 'verify' | 'download' | 'open' | 'weights' | 'compile' | 'evaluate' | 'write' | 'upload';
  /** Bytes or pipelines done, out of `total`. */
  loaded: number;
  total: number;
  /** Of `verify` and `download`, as it was over the last moments, and what is left at this rate. */
  bytesPerSecond?: number;
  secondsLeft?: number;
}

/** What a model is. */
export interface ModelInfo {
  name: string;
  /** `model_type` of config.json, which for GGUF files is worked out from the metadata. */
  modelType: string;
  parameters: number;
  /** As loaded. */
  weightBytes: number;
  hiddenSize: number;
  layers: number;
  contextLength: number;
  vocabSize: number;
  /** The commonest type of the weights as loaded, as GGUF or safetensors spell it: `Q4_1`, `BF16`. */
  dtype: string;
  /** What quantising cost, where any matrix was. */
  quantization?: QuantizationError;
  /** Short names that an adapter can target: `q_proj`, … */
  targetModules: string[];
  /** Short names of the norms that an adapter's `modulesToSave` can name: `input_layernorm`, `norm`, … */
  normModules: string[];
  hasTokenizer: boolean;
  hasChatTemplate: boolean;
}

/** How far quantising moved the weights W: ‖W − Q(W)‖ / ‖W‖, 0.01 for one per cent. */
export interface QuantizationError {
  /** What they were made into: `Q8_0`, `Q4_0`. */
  dtype: string;
  /** How many matrices. */
  tensors: number;
  /** Over all of them together. */
  relative: number;
  /** The largest of a single matrix, and which. */
  worst: number;
  worstTensor: string;
}
