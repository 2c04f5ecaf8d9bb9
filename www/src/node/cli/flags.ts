/**
 * Flags of the command, which are the options of the package: `learningRate` is `--learning-rate`. The tables name every
 * option there is; one that is new in the types and missing here does not compile.
 */

import { parseArgs } from 'node:util';
import type {
  AdapterOptions,
  GenerateOptions,
  LoadDatasetOptions,
  LoadModelOptions,
  MergeOptions,
  TrainOptions,
} from '../../types.js';

/** What follows a flag: nothing, a number, a text, texts or numbers with commas between them, or JSON. */
type Kind = 'flag' | 'number' | 'text' | 'texts' | 'numbers' | 'json';
export type Flags = Record<string, readonly [kind: Kind, help: string]>;

type Options<All> = Record<keyof All, readonly [Kind, string]>;

export const MODEL_FLAGS = {
  contextLength: ['number', 'longest row of tokens, where less than the model’s own is wanted'],
  quantize: ['text', 'q8_0 or q4_0: makes a model in F32, F16 or BF16 smaller as it is loaded'],
} satisfies Options<Omit<LoadModelOptions, 'onProgress' | 'signal'>>;

export const DATA_FLAGS = {
  maxLength: ['number', 'longer examples are cut to this many tokens'],
  evalShare: ['number', 'share of the examples held out to evaluate on, at most 0.5'],
  format: ['text', 'jsonl, json, csv, tsv, parquet or text, where content and name do not say it'],
  mapping: ['json', 'what the columns are, as {"prompt": "question", "completion": "answer"}'],
} satisfies Options<Omit<LoadDatasetOptions, 'name' | 'seed' | 'evalData'>>;

export const ADAPTER_FLAGS = {
  r: ['number', 'rank of the adapter'],
  loraAlpha: ['number', 'its scale is alpha / r'],
  useRslora: ['flag', 'its scale is alpha / √r'],
  useDora: ['flag', 'DoRA: magnitudes of the weights’ rows are trained apart from their directions'],
  initLoraWeights: ['text', 'how it begins: default, gaussian, pissa, pissa_niter_16 or olora'],
  loraDropout: ['number', 'probability that an input of the adapter is dropped in training'],
  targetModules: ['texts', 'modules to adapt: q_proj,v_proj, a regular expression, or all-linear'],
  excludeModules: ['texts', 'those of them to leave alone'],
  layersToTransform: ['numbers', 'the only layers to adapt'],
  rankPattern: ['json', 'other ranks by module, as {"pattern": rank}'],
  alphaPattern: ['json', 'other alphas by module, as {"pattern": alpha}'],
  bias: ['text', 'biases to train as well: none, lora_only (of adapted modules) or all'],
  modulesToSave: ['texts', 'norms to train in full: input_layernorm,norm'],
} satisfies Options<Omit<AdapterOptions, 'seed'>>;

export const TRAIN_FLAGS = {
  steps: ['number', 'optimiser steps; takes precedence over epochs'],
  epochs: ['number', 'times through the examples'],
  batchSize: ['number', 'examples in one step'],
  loss: ['text', 'sft, or of pairs of answers dpo or orpo'],
  beta: ['number', 'of dpo and orpo'],
  gradientAccumulationSteps: ['number', 'batches in one step'],
  tokensPerPass: ['number', 'most tokens at once; what needs more takes several passes'],
  memoryBudget: ['number', 'GPU memory to stay within, in bytes'],
  learningRate: ['number', 'the highest, after the warm-up'],
  warmupSteps: ['number', 'steps until then'],
  warmupRatio: ['number', 'the same as a share of all steps'],
  schedule: ['text', 'of the learning rate: cosine, cosine_with_restarts, linear or constant'],
  numCycles: ['number', 'cosines of cosine_with_restarts'],
  optim: ['text', 'adamw, or adamw_8bit, which takes less memory'],
  weightDecay: ['number', 'of AdamW'],
  beta1: ['number', 'of AdamW'],
  beta2: ['number', 'of AdamW'],
  eps: ['number', 'of AdamW'],
  maxGradNorm: ['number', 'longer gradients are cut to this norm'],
  loraplusLrRatio: ['number', 'LoRA+: learning rate of every B, as a multiple of that of A'],
  labelSmoothingFactor: ['number', 'share of the target’s probability that is spread over the vocabulary'],
  neftuneNoiseAlpha: ['number', 'NEFTune: size of the noise on the embeddings; 5 is usual'],
  seed: ['number', 'of the adapter, the order of the examples and what is held out'],
  evalSteps: ['number', 'steps between evaluations'],
  evalOnStart: ['flag', 'an evaluation before the first step as well'],
  earlyStoppingPatience: ['number', 'ends after so many evaluations in a row that were no better'],
  loadBestModelAtEnd: ['flag', 'keeps the adapter of the best evaluation'],
  samplePrompts: ['texts', 'prompts to answer along the way'],
  sampleSteps: ['number', 'steps between those answers'],
  saveSteps: ['number', 'of a --run, steps between checkpoints; where not given, as many as take 20 seconds'],
} satisfies Options<TrainOptions>;

export const GENERATE_FLAGS = {
  maxNewTokens: ['number', 'longest answer'],
  temperature: ['number', '0 always takes the likeliest token'],
  topP: ['number', 'draws from the likeliest tokens that make up this share'],
  seed: ['number', 'of the draws'],
  topLogprobs: ['number', 'tells with --json how likely each token was, and so many of the likeliest'],
  strength: ['number', 'of the adapter: 0 is the base model, 1 the adapter'],
} satisfies Options<Omit<GenerateOptions, 'messages' | 'prompt'>>;

export const MERGE_FLAGS = {
  dtype: ['text', 'of the merged weights: f32, f16 or bf16; where not given what the base has, f16 of a quantised one'],
  maxShardBytes: ['number', 'largest file of merged weights, in bytes'],
} satisfies Options<MergeOptions>;

/** A command line that cannot be made out. */
export class UsageError extends Error {}

/** Names that flags have beside their own. */
const OTHER_NAMES: Record<string, string> = { r: 'rank', alpha: 'lora-alpha' };

/** `learningRate` as `--learning-rate`. */
export function flagOf(option: string): string {
  return `--${nameOf(option)}`;
}

/** The values of the flags that were given, by the names of their options. */
export function readFlags(args: string[], flags: Flags): Record<string, unknown> {
  const byFlag = new Map(Object.entries(flags).map(([option, [kind]]) => [nameOf(option), { option, kind }]));
  for (const [other, name] of Object.entries(OTHER_NAMES)) {
    const same = byFlag.get(name);
    if (same) byFlag.set(other, same);
  }
  const options = Object.fromEntries(
    [...byFlag].map(([name, { kind }]) => [
      name,
      { type: kind === 'flag' ? ('boolean' as const) : ('string' as const), multiple: kind === 'texts' },
    ]),
  );
  const values = parse(args, options);
  const read: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(values)) {
    const flag = byFlag.get(name);
    if (flag) read[flag.option] = convert(`--${name}`, flag.kind, value as boolean | string | string[]);
  }
  return read;
}

/** Those of `values` that one table names. */
export function pick(values: Record<string, unknown>, flags: Flags): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([name]) => name in flags));
}

export function describe(flags: Flags): string {
  const names = Object.keys(flags).map((option) => `  ${flagOf(option)}`);
  const width = Math.max(...names.map((name) => name.length)) + 2;
  return Object.values(flags)
    .map(([, help], at) => `${names[at]?.padEnd(width)}${help}`)
    .join('\n');
}

function parse(args: string[], options: NonNullable<Parameters<typeof parseArgs>[0]>['options'] & object): object {
  try {
    return parseArgs({ args, options, strict: true }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function convert(flag: string, kind: Kind, value: boolean | string | string[]): unknown {
  if (Array.isArray(value)) return value;
  switch (kind) {
    case 'number':
      return number(flag, String(value));
    case 'numbers':
      return String(value).split(',').map((one) => number(flag, one));
    case 'json':
      try {
        return JSON.parse(String(value));
      } catch {
        throw new UsageError(`${flag} must be JSON, which ${value} is not.`);
      }
    default:
      return value;
  }
}

function number(flag: string, text: string): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value)) return value;
  throw new UsageError(`${flag} must be a number, which “${text}” is not.`);
}

function nameOf(option: string): string {
  return option === 'r' ? 'rank' : option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
