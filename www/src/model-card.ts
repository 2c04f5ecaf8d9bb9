/**
 * The README.md that goes with an adapter: what the Hub reads at its head, and what people read below. What is in it of
 * the training are settings, numbers and file names; of the examples and of what was asked, nothing.
 */

import type { AdapterInfo, DatasetReport, Evaluation, ModelInfo, TrainOptions } from './types.js';

/** What the README.md of an adapter tells. What is left out is not told. */
export interface AdapterCard {
  /** Title of the page. */
  name: string;
  /** The model that the adapter belongs to, as a Hub id or a file name. */
  baseModel: string;
  /** How the base was loaded. */
  model?: Pick<ModelInfo, 'modelType' | 'parameters' | 'dtype'>;
  adapter?: Pick<AdapterInfo, 'r' | 'loraAlpha' | 'useRslora' | 'useDora' | 'targetModules' | 'parameters' | 'trainedSteps'> &
    Partial<Pick<AdapterInfo, 'bias' | 'modulesToSave'>>;
  /** The examples, of which only names and numbers are told. */
  dataset?: Pick<DatasetReport, 'file' | 'examples' | 'preferencePairs' | 'tokens' | 'supervisedTokens' | 'evalExamples'> &
    Partial<Pick<DatasetReport, 'files' | 'shape'>>;
  /** Of prompts to sample nothing is told. */
  training?: TrainOptions;
  /** Of the last step. */
  loss?: number;
  /** Of the adapter, on examples that were held out. */
  evaluation?: Pick<Evaluation, 'loss' | 'perplexity' | 'accuracy' | 'examples' | 'rewards'>;
  /** Of the SPDX list, or what the Hub has besides. */
  license?: string;
  /** Anything else about the training, as label and text. */
  facts?: Record<string, string>;
}

/** A repository of the Hub, which the head may name a base by. */
const HUB_ID = /^[\w.-]+\/[\w.-]+$/;

/** The README.md. */
export function modelCard(card: AdapterCard): string {
  const parts = [
    head(card),
    `# ${plain(card.name)}`,
    `A LoRA adapter for ${code(card.baseModel)}, trained on one GPU in a browser tab or in Node with web-lora.`,
    section('What was learned', learned(card)),
    table('Settings', settings(card)),
    table('Results', results(card)),
    table('More', card.facts ?? {}),
    usage(card),
  ];
  return `${parts.filter(Boolean).join('\n\n')}\n`;
}

/** YAML as JSON writes texts, which is YAML. */
function head({ baseModel, license }: AdapterCard): string {
  const isHub = HUB_ID.test(baseModel);
  const tags = ['lora', 'peft', 'web-lora', ...(isHub ? [`base_model:adapter:${baseModel}`] : [])];
  const lines = [
    // The Hub refuses a base that is no repository.
    ...(isHub ? [`base_model: ${JSON.stringify(baseModel)}`, 'base_model_relation: adapter'] : []),
    ...(license ? [`license: ${JSON.stringify(oneLine(license))}`] : []),
    'library_name: peft',
    'pipeline_tag: text-generation',
    'tags:',
    ...tags.map((tag) => `- ${JSON.stringify(tag)}`),
  ];
  return ['---', ...lines, '---'].join('\n');
}

function learned({ dataset, training }: AdapterCard): string {
  if (!dataset) return '';
  const { file, files = [], examples, preferencePairs, tokens, supervisedTokens, evalExamples, shape } = dataset;
  const names = files.length > 1 ? files.map(({ file }) => code(file)).join(', ') : code(file);
  const what = preferencePairs > 0 ? `${count(preferencePairs)} pairs of a chosen and a rejected answer` : `${count(examples)} examples`;
  const how = preferencePairs > 0 && training?.loss ? `, by ${training.loss.toUpperCase()}` : '';
  const share = `${count(supervisedTokens)} of their ${count(tokens)} tokens`;
  const rule =
    shape === 'text'
      ? `It was trained on ${share}: the whole text.`
      : `It was trained to say ${share}: the answers, not what they answer.`;
  const held = evalExamples > 0 ? ` ${count(evalExamples)} more were held out to evaluate on.` : '';
  return `${what} of ${names}${how}. ${rule}${held}`;
}

function settings({ model, adapter, training = {} }: AdapterCard): Record<string, string> {
  const rows: Record<string, string> = {};
  if (model) rows['Base as loaded'] = `${model.modelType}, ${count(model.parameters)} parameters, ${model.dtype}`;
  if (adapter) {
    const { useRslora, useDora, bias, modulesToSave } = adapter;
    rows['Rank and alpha'] = `${adapter.r} and ${adapter.loraAlpha}${useRslora ? ', rsLoRA' : ''}${useDora ? ', DoRA' : ''}`;
    rows['Target modules'] = adapter.targetModules.join(', ');
    if (bias && bias !== 'none') rows['Trained biases'] = bias === 'all' ? 'all' : 'of the target modules';
    if (modulesToSave?.length) rows['Trained norms'] = modulesToSave.join(', ');
    rows['Trained parameters'] = count(adapter.parameters);
    rows['Steps'] = count(adapter.trainedSteps);
  }
  for (const [name, value] of Object.entries(training)) {
    if (value === undefined || name === 'samplePrompts' || name === 'sampleSteps' || name === 'saveSteps') continue;
    rows[name] = String(value);
  }
  return rows;
}

function results({ loss, evaluation }: AdapterCard): Record<string, string> {
  const rows: Record<string, string> = {};
  if (loss !== undefined) rows['Loss of the last step'] = loss.toFixed(4);
  if (evaluation) {
    const { rewards } = evaluation;
    const what = rewards ? 'pairs' : 'examples';
    rows['Evaluation loss'] = `${evaluation.loss.toFixed(4)} on ${count(evaluation.examples)} ${what} held out`;
    if (rewards) rows['Pairs told apart'] = `${(100 * rewards.accuracy).toFixed(1)} %`;
    else {
      rows['Perplexity'] = evaluation.perplexity.toFixed(3);
      rows['Tokens guessed right'] = `${(100 * evaluation.accuracy).toFixed(1)} %`;
    }
  }
  return rows;
}

function usage({ baseModel }: AdapterCard): string {
  const base = HUB_ID.test(baseModel) ? baseModel : 'the base model';
  return `## Use it

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("${base}")
tokenizer = AutoTokenizer.from_pretrained("${base}")
model = PeftModel.from_pretrained(base, "the folder or repository with this file")

inputs = tokenizer("Hello!", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
\`\`\``;
}

function section(title: string, text: string): string {
  return text && `## ${title}\n\n${text}`;
}

function table(title: string, rows: Record<string, string>): string {
  const lines = Object.entries(rows).map(([label, text]) => `| ${plain(label)} | ${plain(text)} |`);
  return section(title, lines.length > 0 ? ['| | |', '| --- | --- |', ...lines].join('\n') : '');
}

function count(value: number): string {
  return new Intl.NumberFormat('en').format(value);
}

function oneLine(text: string): string {
  return text.replace(/[\s\p{Cc}\p{Cf}]+/gu, ' ').trim();
}

/** A text that is no markup, whatever is in it. */
function plain(text: string): string {
  return oneLine(text).replace(/[\\`*_{}[\]()<>#!|~&$:]/g, '\\$&').replaceAll('@', '&#64;');
}

/** A name as it is written, in a fence that is longer than any in it. */
function code(text: string): string {
  const longest = Math.max(0, ...[...oneLine(text).matchAll(/`+/g)].map(([run]) => run.length));
  const fence = '`'.repeat(longest + 1);
  return longest > 0 ? `${fence} ${oneLine(text)} ${fence}` : `${fence}${oneLine(text)}${fence}`;
}
