/** What training takes: memory foreseen, and time measured. */

import type { Quantization } from './model.js';
import type { Loss, Optim } from './training.js';

/** What to foresee the memory of; what is left out is as in loadModel, newAdapter and train. */
export interface PlanMemoryOptions {
  contextLength?: number;
  quantize?: Quantization;
  r?: number;
  targetModules?: string[] | string;
  excludeModules?: string[] | string;
  layersToTransform?: number[];
  rankPattern?: Record<string, number>;
  /** Takes nothing. */
  useRslora?: boolean;
  useDora?: boolean;
  loraDropout?: number;
  bias?: 'none' | 'all' | 'lora_only';
  modulesToSave?: string[];
  /** 512 where not given. */
  tokensPerPass?: number;
  memoryBudget?: number;
  loss?: Loss;
  optim?: Optim;
  loraplusLrRatio?: number;
  labelSmoothingFactor?: number;
  neftuneNoiseAlpha?: number;
  /** Where given, with the memory of evaluations. */
  evalSteps?: number;
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
