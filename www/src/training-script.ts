/**
 * The same training in Python: a script for transformers, peft and TRL with the settings of one here. Text, numbers and
 * names from outside get into it as literals alone, never as code.
 */

import { WebLoraError } from './errors.js';
import { call, expression, python, type Value } from './python.js';
import { dataFunctions, definitionsFor, type ScriptFile } from './script-data.js';
import { checkSettings } from './settings.js';
import type { AdapterOptions, DataSettings, Loss, Schedule, TrainOptions } from './types.js';

/** What a script is made of. */
export interface ScriptSettings {
  /** Id on the Hub, or path of a folder. */
  model: string;
  /** The file in it, where the model is one in GGUF. */
  ggufFile?: string;
  /** Files of examples: their paths, with what is known of them. */
  dataFiles: readonly (string | ScriptFile)[];
  /** How they are read here. */
  data?: DataSettings;
  adapter?: AdapterOptions;
  training?: TrainOptions;
}

const TRAINERS: Record<Loss, { from: string; config: string; trainer: string }> = {
  sft: { from: 'trl', config: 'SFTConfig', trainer: 'SFTTrainer' },
  dpo: { from: 'trl', config: 'DPOConfig', trainer: 'DPOTrainer' },
  orpo: { from: 'trl.experimental.orpo', config: 'ORPOConfig', trainer: 'ORPOTrainer' },
};
const SCHEDULES: Record<Schedule, string> = {
  cosine: 'cosine',
  cosine_with_restarts: 'cosine_with_restarts',
  linear: 'linear',
  constant: 'constant_with_warmup',
};
/** A learning rate rises over this share of the steps, where nothing else is said. */
const WARMUP = 0.05;

/**
 * A Python script for transformers 5, peft and TRL 1 that trains a new adapter with these settings, in f32; what is
 * left out is as it is here. It reads the examples as they are read here and learns the same of them (but that ORPO of
 * conversations learns what a template writes behind an answer, too): from the same adapter with the same batches its
 * losses are those here. A new adapter, batches and noise are drawn by other generators, so that such losses are alike.
 *
 * Throws `bad_setting` where the examples are not what the loss learns from.
 */
export function trainingScript({ model, ggufFile, dataFiles, data = {}, adapter = {}, training = {} }: ScriptSettings): string {
  for (const settings of [data, adapter, training]) checkSettings(settings);
  const loss = training.loss ?? 'sft';
  const trainer = choice('loss', loss, TRAINERS);
  const held = (data.evalShare ?? 0) > 0;
  const evaluated = held && training.evalSteps !== undefined;
  const plus = training.loraplusLrRatio ?? 1;
  const stopping = evaluated && training.earlyStoppingPatience !== undefined;
  const from = call('AutoModelForCausalLM.from_pretrained', [expression('MODEL')], {
    gguf_file: ggufFile,
    dtype: 'float32',
  });
  const arguments_ = {
    model: expression('model'),
    args: expression('args'),
    train_dataset: expression('examples'),
    eval_dataset: evaluated ? expression('held_out') : undefined,
    processing_class: expression('tokenizer'),
    optimizers: plus === 1 ? undefined : expression('(optimizer, None)'),
    callbacks: stopping
      ? expression(`[EarlyStoppingCallback(early_stopping_patience=${python(training.earlyStoppingPatience)})]`)
      : undefined,
  };
  const eightBit = training.optim === 'adamw_8bit';
  const { files, functions } = dataFunctions(dataFiles, data, loss);
  const main = [
    [
      'examples = [example for path, format in DATA for row in rows(path, format) for example in examples_of(row)]',
      'examples = Dataset.from_list(examples)',
      ...(held
        ? [
            `parts = ${call('examples.train_test_split', [], { test_size: data.evalShare, seed: data.seed ?? 0 })}`,
            'examples, held_out = parts["train"], parts["test"]',
          ]
        : []),
    ],
    [
      `model = ${from}`,
      `set_seed(${python(adapter.seed ?? 0)})`,
      `model = get_peft_model(model, ${call('LoraConfig', [], lora(adapter), true)})`,
    ],
    [`args = ${call(trainer.config, [], { ...trainingArguments(training, evaluated), ...lossArguments(training) }, true)}`],
    plus === 1 ? [] : [`optimizer = ${loraplus(training, plus)}`],
    [
      `trainer = ${call(trainer.trainer, [], arguments_, true)}`,
      ...(loss === 'dpo' ? ['trainer.train_dataset = trainer.train_dataset.map(lambda row: ended(row))'] : []),
      ...(loss === 'dpo' && evaluated ? ['trainer.eval_dataset = trainer.eval_dataset.map(lambda row: ended(row))'] : []),
      'trainer.train()',
      'trainer.save_model("adapter")',
    ],
  ].map((lines) => lines.join('\n'));
  const definitions = definitionsFor([...functions, ...main].join('\n'));
  const code = [...definitions, ...functions].join('\n');
  const sections = [
    [
      '# The training that was set up in web-lora, with transformers 5, peft and TRL 1:',
      `#     pip install torch transformers peft trl datasets${eightBit ? ' bitsandbytes' : ''}${ggufFile ? ' gguf' : ''}`,
      ...MODULES.filter((name) => code.includes(`${name}.`)).map((name) => `import ${name}`),
      ...(code.includes('Path(') ? ['from pathlib import Path'] : []),
      '',
      ...(plus === 1 ? [] : [eightBit ? 'import bitsandbytes' : 'import torch']),
      'from datasets import Dataset',
      'from peft import LoraConfig, get_peft_model',
      ...(plus === 1 ? [] : ['from peft.optimizers import create_loraplus_optimizer']),
      `from transformers import AutoModelForCausalLM, AutoTokenizer, ${stopping ? 'EarlyStoppingCallback, ' : ''}set_seed`,
      `from ${trainer.from} import ${trainer.config}, ${trainer.trainer}`,
      ...(code.includes('extract_prompt(') ? ['from trl import extract_prompt'] : []),
    ],
    [`MODEL = ${python(model)}`, `DATA = ${files}`, `MAX_LENGTH = ${python(data.maxLength)}`],
    [
      `tokenizer = ${call('AutoTokenizer.from_pretrained', [expression('MODEL')], { gguf_file: ggufFile })}`,
      'if tokenizer.pad_token is None:',
      '    tokenizer.pad_token = tokenizer.eos_token',
      ...(loss === 'orpo' ? BARE_PROMPTS : []),
    ],
  ].map((lines) => lines.join('\n'));
  return `${[...sections, ...definitions, ...functions, ...main].filter((section) => section !== '').join('\n\n')}\n`;
}

/** Modules of Python that reading may take. */
const MODULES = ['csv', 'io', 'json', 're'];

const BARE_PROMPTS = [
  'if tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:',
  '    tokenizer.bos_token = None  # Or else it would be put before every prompt.',
];

function lora(adapter: AdapterOptions): Record<string, Value> {
  return {
    task_type: 'CAUSAL_LM',
    r: adapter.r ?? 8,
    lora_alpha: adapter.loraAlpha ?? 16,
    use_rslora: adapter.useRslora ?? false,
    use_dora: adapter.useDora || undefined,
    init_lora_weights: adapter.initLoraWeights === 'default' ? undefined : adapter.initLoraWeights,
    lora_dropout: adapter.loraDropout || undefined,
    target_modules: adapter.targetModules ?? 'all-linear',
    exclude_modules: adapter.excludeModules,
    layers_to_transform: adapter.layersToTransform,
    rank_pattern: adapter.rankPattern,
    alpha_pattern: adapter.alphaPattern,
    bias: adapter.bias === 'none' ? undefined : adapter.bias,
    modules_to_save: adapter.modulesToSave?.length ? adapter.modulesToSave : undefined,
  };
}

/** What transformers' `TrainingArguments` has. */
function trainingArguments(training: TrainOptions, evaluated: boolean): Record<string, Value> {
  const { steps, schedule = 'cosine' } = training;
  return {
    output_dir: 'training',
    ...(steps === undefined ? { num_train_epochs: training.epochs ?? 3 } : { max_steps: steps }),
    per_device_train_batch_size: training.batchSize ?? 4,
    gradient_accumulation_steps: training.gradientAccumulationSteps ?? 1,
    learning_rate: training.learningRate ?? 1e-3,
    warmup_steps: warmup(training),
    lr_scheduler_type: choice('schedule', schedule, SCHEDULES),
    lr_scheduler_kwargs: schedule === 'cosine_with_restarts' ? { num_cycles: training.numCycles ?? 1 } : undefined,
    optim: training.optim === 'adamw_8bit' ? 'adamw_8bit' : 'adamw_torch',
    weight_decay: training.weightDecay ?? 0,
    adam_beta1: training.beta1 ?? 0.9,
    adam_beta2: training.beta2 ?? 0.999,
    adam_epsilon: training.eps ?? 1e-8,
    max_grad_norm: training.maxGradNorm ?? 1,
    neftune_noise_alpha: training.neftuneNoiseAlpha || undefined,
    seed: training.seed ?? 0,
    logging_steps: 1,
    bf16: false,
    ...(evaluated
      ? {
          eval_strategy: 'steps',
          eval_steps: training.evalSteps,
          per_device_eval_batch_size: training.batchSize ?? 4,
          eval_on_start: training.evalOnStart,
          load_best_model_at_end: training.loadBestModelAtEnd,
          metric_for_best_model: 'eval_loss',
          save_strategy: 'steps',
          save_steps: training.evalSteps,
        }
      : { save_strategy: 'no' }),
  };
}

/** What TRL adds to them. */
function lossArguments(training: TrainOptions): Record<string, Value> {
  const max_length = expression('MAX_LENGTH');
  if (training.loss && training.loss !== 'sft') return { max_length, beta: training.beta ?? 0.1 };
  return { max_length, label_smoothing_factor: training.labelSmoothingFactor || undefined };
}

/** A number of steps, or where it is not known a share of them below 1, which transformers rounds up. */
function warmup({ steps, warmupSteps, warmupRatio }: TrainOptions): number {
  if (warmupSteps !== undefined && (warmupSteps > 0 || warmupRatio === undefined)) return warmupSteps;
  if (steps === undefined) return Math.min(warmupRatio ?? WARMUP, 1 - 1e-6);
  return warmupRatio === undefined ? Math.floor(steps * WARMUP) : Math.ceil(steps * warmupRatio);
}

function loraplus(training: TrainOptions, ratio: number): string {
  const optimizer = training.optim === 'adamw_8bit' ? 'bitsandbytes.optim.AdamW8bit' : 'torch.optim.AdamW';
  return call('create_loraplus_optimizer', [expression('model'), expression(optimizer)], {
    lr: training.learningRate ?? 1e-3,
    loraplus_lr_ratio: ratio,
    loraplus_weight_decay: training.weightDecay ?? 0,
    betas: [training.beta1 ?? 0.9, training.beta2 ?? 0.999],
    eps: training.eps ?? 1e-8,
  }, true);
}

/** The entry of a table for a setting, whatever the setting is at run time. */
function choice<Entry>(name: string, value: string, table: Record<string, Entry>): Entry {
  const entry = Object.hasOwn(table, value) ? table[value] : undefined;
  if (entry !== undefined) return entry;
  const allowed = Object.keys(table).join(', ');
  const message = `${name} is ${value}, allowed is ${allowed}`;
  throw new WebLoraError({ code: 'bad_setting', message, name, value: String(value), allowed });
}
