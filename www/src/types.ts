/** What users of the package pass in and get back. Names follow Hugging Face, PEFT and PyTorch, in camelCase. */

import type { WebLoraError } from './errors.js';

/** The GPU that the engine found. */
export interface DeviceInfo {
  name: string;
  driver: string;
  /** True where the "GPU" is a program on the CPU: everything works, some hundred times slower. */
  software: boolean;
  maxBufferSize: number;
  maxStorageBufferBindingSize: number;
  shaderF16: boolean;
  /** True where its own clock can time kernels. */
  timestamps: boolean;
  products: Products;
}

/**
 * How matrix products are computed: `direct` suits software, `tiled` GPUs. `tiled-f16` computes the forward pass in
 * f16: faster where the GPU can, less accurate, and used only when asked for.
 */
export type Variant = 'direct' | 'tiled' | 'tiled-f16';

/** The variant that a device got. */
export interface Products {
  variant: Variant;
  /** The device and build it was chosen for. */
  device: string;
  /** What spoke for it: what was measured, or that it was asked for. */
  reason: string;
}

/** What can be stopped. */
export interface Stoppable {
  signal?: AbortSignal | undefined;
}

/** How to open the GPU. By default, the best there is. */
export interface EngineOptions {
  /** Ask only for the limits that every WebGPU device has, even where this one offers more. */
  defaultLimits?: boolean;
  /** Compute products this way, rather than as a short measurement on the device finds best. */
  variant?: Variant | undefined;
}

/**
 * Where a model comes from: one `.gguf` file or all parts of one, the files of a Hugging Face folder, a URL of either, or
 * a name on the Hub. A URL of one part stands for all. A URL that does not end in `.gguf` is taken for the folder that
 * holds config.json.
 */
export type ModelSource = File | readonly File[] | string | URL | HubSource;

/**
 * A model by its name on the Hugging Face Hub. Its files are downloaded into the tab's storage, from where a second
 * load takes them without the network.
 */
export interface HubSource {
  /** `org/name`. */
  repo: string;
  /** Branch, tag or commit; `main` where not given. */
  revision?: string;
  /** Name of a {@link HubChoice} or of one of its files; the first choice where not given. */
  file?: string;
  /** Access token, for gated and private models. It is sent to the endpoint alone, and not kept. */
  token?: string;
  /** Of a mirror; https://huggingface.co where not given. */
  endpoint?: string;
}

/** What the Hub says of one commit of a repository. */
export interface HubListing {
  endpoint: string;
  repo: string;
  /** As asked for. */
  revision: string;
  /** What the revision stands for. */
  commit: string;
  /** Its files need a token of someone who has accepted the authors' terms. */
  gated: boolean;
  license?: string;
  /** What can be loaded, the one to propose first. */
  choices: HubChoice[];
  files: HubFile[];
}

/** Files that make a model: those of a folder with safetensors, or a GGUF file with all its parts. */
export interface HubChoice {
  name: string;
  files: HubFile[];
  sizeBytes: number;
}

/** A file of a repository, as the Hub lists it. */
export interface HubFile {
  path: string;
  /** In bytes. */
  size: number;
  /** Git's name for the contents; of a large file, for the pointer to it. */
  oid: string;
  /** Of large files. */
  sha256?: string;
}

/** A model kept in the tab's storage, whole or in part. */
export interface CachedModel {
  /** The very commit, to load it without the network. */
  source: HubSource;
  /** Under which it was last asked for. */
  revision: string;
  sizeBytes: number;
  cachedBytes: number;
  complete: boolean;
}

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
  phase: 'wait' | 'verify' | 'download' | 'open' | 'weights' | 'compile' | 'evaluate';
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

/** A file of examples, or its content. */
export type DataInput = Blob | string | Uint8Array<ArrayBuffer>;

/** How a file of examples is written. */
export type DataFormat = 'jsonl' | 'json' | 'csv' | 'tsv' | 'parquet' | 'text';

/** What the columns of a file say it is. */
export type DataShape =
  | 'messages'
  | 'sharegpt'
  | 'alpaca'
  | 'prompt_completion'
  | 'question_answer'
  | 'text'
  | 'preference'
  | 'mapped';

/**
 * What the columns of a file are: each the name of a column, or a template such as `Q: {question}` (`{{` and `}}` are
 * brackets). Needed are `prompt` and `completion`, or `text`, or `messages`, or `chosen` and `rejected`.
 */
export interface DataMapping {
  prompt?: string;
  completion?: string;
  text?: string;
  messages?: string;
  /** What a conversation begins with. */
  system?: string;
  chosen?: string;
  rejected?: string;
  /**
   * Whether `prompt` and `completion` are a question and its answer, put through the model's chat template. Default: where
   * it has one. Otherwise they are one text, of which the second part is learned.
   */
  chat?: boolean;
}

/** What a file is, before there is a model to read it for. */
export interface DataSummary {
  format: DataFormat;
  /** Undefined where a mapping has to say it. */
  shape?: DataShape;
  columns: string[];
  rows: number;
  /** The first rows, long values shortened. */
  sample: Record<string, unknown>[];
}

/** How to read examples. */
export interface LoadDatasetOptions {
  /** File name to use in messages, where the data itself has none. */
  name?: string;
  /** Longer examples are cut to this many tokens; texts go on in the next example. */
  maxLength?: number;
  /** Of all files; told by content and name where not given. */
  format?: DataFormat;
  /** Told by the columns where not given. */
  mapping?: DataMapping;
  /** Examples to evaluate on, from files of their own. Those that are also trained on are left out. */
  evalData?: DataInput | readonly DataInput[];
  /** Share of the examples that is held out to evaluate on, at most 0.5. Default: none. */
  evalShare?: number;
  /** Which these are. */
  seed?: number;
}

/** How files are read; which these are is apart. */
export type DataSettings = Omit<LoadDatasetOptions, 'name' | 'evalData'>;

/** What is in a file of examples, after templates, tokens and masks. */
export interface DatasetReport {
  file: string;
  examples: number;
  /** How many of the examples are pairs of a chosen and a rejected answer: all or none. */
  preferencePairs: number;
  tokens: number;
  /** Tokens that the model is trained to say. */
  supervisedTokens: number;
  /** Examples cut to the maximum length. */
  truncated: number;
  /** Tokens in the longest example. */
  longest: number;
  /** Examples held out, which are in no other number here. */
  evalExamples: number;
  /** Their tokens. */
  evalTokens: number;
  /** Examples that are the same as an earlier one. They are trained on all the same. */
  duplicates: number;
  /** How many examples have `from` to `to` tokens, both included. */
  histogram: { from: number; to: number; count: number }[];
  /** Of the first file. */
  format: DataFormat;
  shape?: DataShape;
  files: { file: string; format: DataFormat; shape?: DataShape; examples: number }[];
  /** Lines (of Parquet, rows) that were left out, and why. */
  errors: { file: string; line: number; message: string }[];
  /** The first examples as the model sees them; of a pair, the chosen answer and then the rejected one. */
  preview: { file: string; line: number; pieces: { text: string; supervised: boolean }[] }[];
}

/** Settings of a new adapter, as in PEFT's `LoraConfig`. */
export interface AdapterOptions {
  r?: number;
  loraAlpha?: number;
  useRslora?: boolean;
  /**
   * How it begins: at random with B zero, as is the default and `gaussian`; or from the weights, of which it takes over the
   * largest part and of which only the change is trained (`pissa`, faster as `pissa_niter_16`, and `olora`). What is saved
   * then is a plain adapter of twice the rank.
   */
  initLoraWeights?: 'default' | 'gaussian' | 'pissa' | `pissa_niter_${number}` | 'olora';
  /**
   * Probability that an input of the low-rank branch is dropped in training, from 0 to below 1. Linears that read the same
   * input drop the same of it.
   */
  loraDropout?: number;
  /**
   * Ends of module paths (`q_proj`, `mlp.down_proj`), a regular expression for whole paths, or `all-linear`, which is what
   * is taken where nothing is given.
   */
  targetModules?: string[] | string;
  /** Those of them that are left alone. */
  excludeModules?: string[] | string;
  /** The only layers that are adapted. */
  layersToTransform?: number[];
  /** Other ranks, by the end of a module's path (a regular expression); the first that fits counts. */
  rankPattern?: Record<string, number>;
  /** Other alphas, likewise. */
  alphaPattern?: Record<string, number>;
  seed?: number;
}

/** What an adapter is. */
export interface AdapterInfo {
  r: number;
  loraAlpha: number;
  useRslora: boolean;
  targetModules: string[];
  /** Trained numbers in the adapter. */
  parameters: number;
  baseParameters: number;
  trainedSteps: number;
}

/** A PEFT adapter as its two files. */
export interface AdapterFiles {
  /** adapter_config.json */
  config: Uint8Array<ArrayBuffer>;
  /** adapter_model.safetensors */
  weights: Uint8Array<ArrayBuffer>;
}

/** Who reads an adapter: PEFT with all that is built on it, llama.cpp with all that is built on it, or mlx-lm. */
export type AdapterFormat = 'peft' | 'gguf' | 'mlx';

/** A file under the name that its reader looks for. */
export interface ExportedFile {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
}

/** An adapter by its name, or as its files. */
export type AdapterFrom = string | AdapterFiles;

/** One of the adapters that an engine has. */
export interface AdapterEntry extends AdapterInfo {
  /** Left out by the one that came without a name: what newAdapter and loadAdapter made. */
  name?: string;
  /** It answers, and is what is trained, saved and replaced. */
  inUse: boolean;
}

/** What an adapter does to its weights: ΔW = scaling · B A of each module, by its singular values. */
export interface AdapterSpectrum {
  modules: ModuleSpectrum[];
  parameters: number;
  baseParameters: number;
  /** ‖ΔW‖ over all modules together. */
  norm: number;
}

/** The same of one module. */
export interface ModuleSpectrum {
  /** Path of the module. */
  name: string;
  /** Rows (outputs) and columns (inputs) of its weight. */
  shape: [number, number];
  r: number;
  /** The largest first. */
  singularValues: number[];
  /**
   * As many directions as would have this entropy if all were used alike: exp(−Σ p ln p), p = σ / Σ σ (Roy & Vetterli
   * 2007). From 1 to r; 0 where nothing was learned.
   */
  effectiveRank: number;
  /** ‖ΔW‖² over the square of the largest singular value. From 1 to r; 0 where nothing was learned. */
  stableRank: number;
  /** The share of ‖ΔW‖² that the first one, two, … directions keep. */
  kept: number[];
  /** ‖ΔW‖, Frobenius. */
  norm: number;
}

/** One of the two. */
export interface CompressOptions {
  /** The largest rank of a module. */
  r?: number;
  /** The share of each module's ‖ΔW‖² to keep, by as small a rank as will do: 0.99. */
  keep?: number;
}

/**
 * An adapter to add to others, as often as its weight says, which may be negative: by its name, as files, or the one in
 * use where neither is given.
 */
export interface WeightedAdapter {
  name?: string;
  files?: AdapterFiles;
  weight: number;
}

/** How to add adapters up. */
export interface CombineOptions {
  /**
   * As peft's `combination_type`: `cat` is exact and adds the ranks up; `svd` is the nearest of a rank; `linear` adds As
   * and Bs of one rank, which is rough. Default: `cat`.
   */
  how?: 'cat' | 'svd' | 'linear';
  /** With `svd`: the largest rank of a module. Default: the largest there is among the adapters. */
  r?: number;
}

/** An adapter made of others, and how far it is from what was asked for: ΔW as it was, or the sum. */
export interface RebuiltAdapter {
  files: AdapterFiles;
  modules: { name: string; r: number; error: number; relativeError: number }[];
  /** ‖ΔW − ΔW′‖ over all modules together. */
  error: number;
  /** That over ‖ΔW‖. */
  relativeError: number;
  parameters: number;
}

/**
 * How the learning rate goes on after the warm-up: down to zero along a cosine, once or again and again, or along a line,
 * or not at all.
 */
export type Schedule = 'cosine' | 'cosine_with_restarts' | 'linear' | 'constant';

/** How AdamW keeps its moments: in f32, or in 8 bits with a scale for every 256 numbers. */
export type Optim = 'adamw' | 'adamw_8bit';

/**
 * What is learned of the examples: `sft` to say what is in them; of pairs of a chosen and a rejected answer, `dpo` to prefer
 * the chosen ones more than the base model does, `orpo` to say them and to prefer them.
 */
export type Loss = 'sft' | 'dpo' | 'orpo';

/** Settings of a training, as in TRL’s `SFTConfig`. What is left out is chosen by the engine. */
export interface TrainOptions {
  /** Optimiser steps; takes precedence over `epochs`. */
  steps?: number;
  epochs?: number;
  /** Examples in one optimiser step, or in each part of one. */
  batchSize?: number;
  /** Batches in one optimiser step, whose loss is the mean over all their supervised tokens. */
  gradientAccumulationSteps?: number;
  /** Capacity of one forward and backward pass; a batch that needs more takes several. */
  tokensPerPass?: number;
  /**
   * GPU memory that model, adapter and training may take together, in bytes. Where keeping all activations needs more,
   * some are computed again in each step. Default: no limit.
   */
  memoryBudget?: number;
  learningRate?: number;
  warmupSteps?: number;
  /** The same as a share of all steps, rounded up; `warmupSteps` wins where it is above 0. */
  warmupRatio?: number;
  schedule?: Schedule;
  /** How many cosines `cosine_with_restarts` has. Default: 1. */
  numCycles?: number;
  /** `adamw_8bit` saves half of the optimiser's memory, at the cost of coarser moments. Default: `adamw`. */
  optim?: Optim;
  weightDecay?: number;
  beta1?: number;
  beta2?: number;
  eps?: number;
  maxGradNorm?: number;
  /** LoRA+: the learning rate of every B, as a multiple of `learningRate`, which A keeps. Default: 1. */
  loraplusLrRatio?: number;
  /** Share of the target's probability that is spread evenly over the vocabulary. Default: 0. */
  labelSmoothingFactor?: number;
  /** NEFTune: size of the noise on the embeddings during training; 5 is usual. Default: 0, none. */
  neftuneNoiseAlpha?: number;
  seed?: number;
  /** Default: `sft`. */
  loss?: Loss;
  /** In `dpo` how much a change of likelihood counts, in `orpo` the weight of the odds ratio. Default: 0.1. */
  beta?: number;
  /** Steps between evaluations, where examples are held out; there is one after the last step too. Default: none. */
  evalSteps?: number;
  /** An evaluation before the first step as well. */
  evalOnStart?: boolean;
  /** Ends the run after so many evaluations in a row that were no better than the best. */
  earlyStoppingPatience?: number;
  /** Leaves the adapter as it was at the best evaluation, not as it is at the end. */
  loadBestModelAtEnd?: boolean;
  /** Answered every `sampleSteps` steps and at the end, each as a chat where the model has a template. */
  samplePrompts?: readonly string[];
  /** Default: a tenth of all steps. */
  sampleSteps?: number;
  /** Steps between checkpoints of a run that is kept. Default: as many as take 20 seconds. */
  saveSteps?: number;
}

/** What to hear of a training, and where it is kept. */
export interface TrainCallbacks {
  /** Keeps the run in the tab's storage, under this name, from where `resumeRun` can go on with it. */
  run?: string;
  /** What `saveState` gave: goes on there, and ends in the same bytes as a run that was never stopped. */
  resume?: Uint8Array<ArrayBuffer>;
  /** Called while the step is compiled. */
  onProgress?: (progress: Progress) => void;
  /** The step is compiled and fits; the first one starts. */
  onPlan?: (plan: TrainPlan) => void;
  /** A step is done. */
  onStep?: (step: TrainStep) => void;
  /** An evaluation is done. */
  onEval?: (evaluation: EvalStep) => void;
  /** One of the `samplePrompts` is answered. */
  onSample?: (sample: Sample) => void;
  /** The run is kept under this id. */
  onRun?: (id: string) => void;
  /** A checkpoint is written: nothing up to this step can be lost any more. */
  onSaved?: (step: number) => void;
  /** A checkpoint could not be written. The training goes on, and the next one is tried. */
  onUnsaved?: (error: WebLoraError) => void;
  /** Stops after the step under way. What was learned until then is kept. */
  signal?: AbortSignal;
}

/** What to foresee the memory of; what is left out is as in loadModel, newAdapter and train. */
export interface PlanMemoryOptions {
  contextLength?: number;
  quantize?: Quantization;
  r?: number;
  targetModules?: string[] | string;
  /** 512 where not given. */
  tokensPerPass?: number;
  memoryBudget?: number;
  loss?: Loss;
  optim?: Optim;
  loraplusLrRatio?: number;
  labelSmoothingFactor?: number;
  neftuneNoiseAlpha?: number;
}

/** GPU memory during training, in bytes, to the byte. */
export interface MemoryPlan {
  weights: number;
  /** The factors of the adapter. */
  adapter: number;
  /** Gradients, both moments, and what the optimiser needs besides. */
  optimizer: number;
  /** What the forward pass keeps for the backward pass. */
  activations: number;
  /** What is needed for a moment, and the small things. */
  workspace: number;
  total: number;
  /** Parts of the model (two a layer) whose activations are computed again rather than kept, to fit the budget. */
  recompute: number;
  /** What that costs: 0.25 for a quarter more to compute in a step. */
  recomputeCost: number;
  /** Floating-point operations of a full pass. */
  flops: number;
}

/** What training a model would be like. */
export interface Forecast extends MemoryPlan {
  /** In full passes, by the rate of this GPU's products: right to some tens of percent. */
  tokensPerSecond: number;
  cost: AdapterCost;
}

/** What LoRA trains and holds, beside full fine-tuning. Activations, which both need alike, are not in it. */
export interface AdapterCost {
  /** Of each adapted linear [out, in], in the order of the model: its pair has r (out + in) numbers, its weight out · in. */
  modules: { name: string; shape: [number, number]; r: number; parameters: number; baseParameters: number }[];
  /** Numbers that LoRA trains. */
  parameters: number;
  /** Numbers of the weights it adapts. */
  baseParameters: number;
  /** Numbers of the whole model. */
  modelParameters: number;
  /** The frozen model as it is loaded, and 16 bytes for each number trained. */
  bytes: number;
  /** 16 bytes for each number of the model: f32, its gradient and two moments. */
  fullBytes: number;
}

/** What a training will be, known before its first step. */
export interface TrainPlan {
  steps: number;
  batchSize: number;
  tokensPerPass: number;
  passes: number;
  tokensPerEpoch: number;
  memory: MemoryPlan;
  dispatches: number;
}

/** Means over the pairs of a step, with TRL's meanings. */
export interface Rewards {
  /**
   * Of the chosen answers: in `dpo` beta times how much likelier than in the base model (sums of log-probabilities), in
   * `orpo` beta times the mean log-probability.
   */
  chosen: number;
  /** Of the rejected answers. */
  rejected: number;
  /** Share of pairs in which the chosen one's is the larger. */
  accuracy: number;
  /** The chosen ones' less the rejected ones'. */
  margin: number;
  /** In `orpo`, the part of the loss that is the chosen texts' cross-entropy. */
  nllLoss?: number;
  /** In `orpo`, the rest is -beta times this. */
  logOddsRatio?: number;
}

/** One step of the optimiser. */
export interface TrainStep {
  /** 1-based. */
  step: number;
  steps: number;
  /** Mean over the supervised tokens of the step, or over its pairs. */
  loss: number;
  gradNorm: number;
  learningRate: number;
  tokens: number;
  supervisedTokens: number;
  /** True where the gradient was not finite and the step left the adapter alone. */
  skipped: boolean;
  /** Where the loss is `dpo` or `orpo`. */
  rewards?: Rewards;
  tokensPerSecond: number;
  /** Estimated from the steps so far; undefined until one has been measured. */
  secondsLeft: number | undefined;
}

/** How a training ended. */
export interface TrainResult {
  /** Steps done. */
  steps: number;
  /** `early`: evaluations had ceased to get better. */
  stopped: 'end' | 'cancelled' | 'early';
  /** Where there were evaluations, the best: with `loadBestModelAtEnd` the adapter is as it was then. */
  best?: EvalStep;
}

/** Scores over some examples. */
export interface Evaluation {
  /** Mean cross-entropy of their supervised tokens, in nats. */
  loss: number;
  /** `exp(loss)`: among how many tokens the model might as well have guessed. */
  perplexity: number;
  /** Share of the supervised tokens that the model holds to be the likeliest, each after the true ones before it. */
  accuracy: number;
  /** Share of the examples that a model which always says the likeliest would answer word for word. */
  exactMatch: number;
  examples: number;
  /** Supervised ones. */
  tokens: number;
}

/** An evaluation in the course of a run. */
export interface EvalStep extends Evaluation {
  /** After how many steps. */
  step: number;
  /** No earlier one had so low a loss. */
  best: boolean;
}

/** What to evaluate. */
export interface EvaluateOptions {
  /** Those held out (the default), or those trained on. */
  data?: 'eval' | 'train';
  /** Of the adapter; 0 is the base model. */
  strength?: number;
}

/** An answer in the course of a run. */
export interface Sample {
  /** After how many steps. */
  step: number;
  prompt: string;
  text: string;
}

/** What `forwardBackward` went through. */
export interface BatchReport {
  /** Mean cross-entropy over its supervised tokens. */
  loss: number;
  tokens: number;
  supervisedTokens: number;
}

/** AdamW's numbers for one step; what is left out is as the options of the run have it. */
export interface OptimOptions {
  learningRate?: number;
  weightDecay?: number;
  maxGradNorm?: number;
}

/** What `optimStep` did. */
export interface OptimReport {
  /** 1-based. */
  step: number;
  gradNorm: number;
  learningRate: number;
  /** True where the gradients were not finite and the adapter was left alone. */
  skipped: boolean;
}

/** `interrupted`: its tab was closed or died. All but `done` can be resumed. */
export type RunStatus = 'running' | 'interrupted' | 'stopped' | 'failed' | 'done';

/** All that it takes to repeat a run, given its model and its files of examples. */
export interface RunConfig {
  model: {
    name: string;
    modelType: string;
    parameters: number;
    dtype: string;
    /** Where it came from; undefined for files of this device. */
    source?: string | HubSource;
    options: { contextLength?: number; quantize?: Quantization };
  };
  /** The last `evalFiles` of the files are to evaluate on. */
  data: { files: string[]; evalFiles?: number; options: DataSettings };
  /** Undefined where the run went on from an adapter that there was. */
  adapter?: AdapterOptions;
  training: TrainOptions;
}

/** A run kept in the tab's storage. */
export interface RunInfo {
  id: string;
  name: string;
  /** Milliseconds since 1970. */
  created: number;
  updated: number;
  status: RunStatus;
  /** The last one that is kept. */
  step: number;
  steps: number;
  /** Of that step. */
  loss?: number;
  /** The lowest of its evaluations. */
  bestLoss?: number;
  config: RunConfig;
}

/** What was measured in a run. */
export interface RunMetrics {
  steps: TrainStep[];
  evaluations: EvalStep[];
  samples: Sample[];
}

/** Where the time of a training step goes. Kernels are timed one by one, so what matters are the shares. */
export interface Profile {
  device: string;
  /** True where the GPU's own clock told the times (browsers round it, often to 0.1 ms); else waiting did. */
  timestamps: boolean;
  /** Tokens of the step. */
  tokens: number;
  /** Sum of all. */
  seconds: number;
  /** The longest first. */
  ops: ProfileOp[];
}

/** One kernel in one kind of module, all layers together. */
export interface ProfileOp {
  phase: 'forward' | 'backward' | 'update';
  /** Path in the model, without the layer's number: `layers.mlp.down_proj`. */
  module: string;
  /** Name of the shader; `clear` and `copy` are the driver's. */
  kernel: string;
  /** Dispatches. */
  count: number;
  seconds: number;
  /** Of the step, 0 to 1. */
  share: number;
  /** 0 for kernels that do not state what they compute. */
  gigaflopsPerSecond: number;
  /** As if each byte the kernel was given were read or written once. */
  gigabytesPerSecond: number;
}

/** One message of a conversation. */
export interface Message {
  role: string;
  content: string;
  /** What else the model's template may ask for: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`. */
  [field: string]: unknown;
}

/** What to answer, and how. */
export interface GenerateOptions {
  /** A conversation, put through the model's chat template. */
  messages?: Message[];
  /** Plain text to go on from, instead of `messages`. */
  prompt?: string;
  maxNewTokens?: number;
  /** 0 always takes the likeliest token. */
  temperature?: number;
  topP?: number;
  seed?: number;
  /** 0 is the base model, 1 the adapter, between is between, 2 twice what was learned; from -4 to 4. */
  strength?: number;
  /**
   * Tells how likely each token was, and so many of the likeliest ones in its place, 0 to 20. Costs a row of numbers as
   * long as the vocabulary for each token. Default: nothing is told.
   */
  topLogprobs?: number;
}

/** What to hear of an answer. */
export interface GenerateCallbacks {
  /** Text as it comes, in pieces. */
  onToken?: (text: string) => void;
  /** Stops early; the answer so far is the result. */
  signal?: AbortSignal;
}

/** An answer. */
export interface GenerateResult {
  text: string;
  tokens: number;
  promptTokens: number;
  stopped: 'end' | 'length' | 'cancelled';
  /** Where `topLogprobs` was given: of each token. */
  logprobs?: TokenLogprobs[];
}

/** A token and how likely it was. */
export interface TokenLogprob {
  /** What it adds to the text. */
  text: string;
  /** The natural logarithm of its probability, by the model's own distribution whatever `temperature` and `topP` are. */
  logprob: number;
}

/** A token of an answer, and what else might have come. */
export interface TokenLogprobs extends TokenLogprob {
  /** The likeliest first. */
  top: TokenLogprob[];
}
