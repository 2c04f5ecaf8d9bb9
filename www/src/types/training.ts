/** Training: its settings, what is heard of it, how it ends; and steps by hand. */

import type { WebLoraError } from '../errors.js';
import type { MemoryPlan } from './cost.js';
import type { EvalStep } from './evaluation.js';
import type { Progress } from './model.js';

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
  /**
   * The GPU was lost, or the engine died, and the run that is kept goes on from its newest checkpoint in a new worker, once
   * the model is loaded again. The steps after that checkpoint are told again.
   */
  onRecovering?: (failure: WebLoraError) => void;
  /** Stops after the step under way. What was learned until then is kept. */
  signal?: AbortSignal;
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

/** Means over the pairs of a step or an evaluation, with TRL's meanings. */
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

/** An answer in the course of a run. */
export interface Sample {
  /** After how many steps. */
  step: number;
  prompt: string;
  text: string;
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
