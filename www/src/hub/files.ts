/** Which files of a repository make a model: pure decisions over a list of names, nothing is fetched here. */

import { WebLoraError } from '../errors.js';
import type { HubChoice, HubFile } from '../types.js';

/** Files of a Hugging Face folder that say something about the model, beside its weights. */
export const TEXT_FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
];
export const WEIGHTS = 'model.safetensors';
export const WEIGHTS_INDEX = 'model.safetensors.index.json';

/** GGUF types in the order in which they are proposed: small and good first. Others follow by size. */
const PROPOSED = ['Q4_K_M', 'Q4_0', 'Q4_1', 'Q5_K_M', 'Q8_0', 'F16', 'BF16'];
/** `…-00002-of-00005.gguf`, and the same for safetensors. */
const PART = /^(.*)-(\d{5})-of-(\d{5})(\.gguf|\.safetensors)$/;
const PICKLE = /\.(bin|pth|pt|ckpt)$/;

/** What can be loaded from a repository with these files, the one to propose first. Refuses one that has nothing. */
export function choicesIn(repo: string, files: readonly HubFile[]): HubChoice[] {
  const choices = [...folderChoice(repo, files), ...ggufChoices(repo, files)];
  if (choices.length > 0) return choices;
  const pickle = files.find(({ path }) => PICKLE.test(path));
  if (pickle) {
    throw new WebLoraError({
      code: 'unsupported',
      file: pickle.path,
      field: 'its kind of weights',
      message: `${repo} has its weights in ${pickle.path}, a pickle, which can run code. Look for a copy of the model in safetensors or GGUF.`,
    });
  }
  const there = files.slice(0, 6).map(({ path }) => path).join(', ') || 'nothing';
  throw notThere(repo, `${repo} has no model in it: neither ${WEIGHTS} with config.json nor a .gguf file (there is: ${there}).`);
}

/** The choice that a caller named, by its own name or that of one of its files, or else the first. */
export function pickChoice(repo: string, choices: readonly HubChoice[], file: string | undefined): HubChoice {
  const found = choices.find(({ name, files }) => !file || name === file || files.some(({ path }) => path === file));
  if (found) return found;
  throw notThere(String(file), `${repo} has no ${file}. There is: ${choices.map(({ name }) => name).join(', ')}.`);
}

function folderChoice(repo: string, files: readonly HubFile[]): HubChoice[] {
  const named = (name: string) => files.filter(({ path }) => path === name);
  if (named('config.json').length === 0) return [];
  const index = named(WEIGHTS_INDEX);
  const shards = files.filter(({ path }) => PART.exec(path)?.[4] === '.safetensors' && !path.includes('/'));
  const whole = named(WEIGHTS);
  const weights = whole.length > 0 ? whole : index.length > 0 ? [...index, ...complete(repo, shards)] : [];
  if (weights.length === 0) return [];
  return [choice(WEIGHTS, [...TEXT_FILES.flatMap(named), ...weights])];
}

function ggufChoices(repo: string, files: readonly HubFile[]): HubChoice[] {
  const groups = new Map<string, HubFile[]>();
  for (const file of files) {
    // A projector for images is no model.
    if (!file.path.endsWith('.gguf') || file.path.split('/').pop()?.startsWith('mmproj')) continue;
    const [, stem = file.path, , , ending = ''] = PART.exec(file.path) ?? [];
    groups.set(stem + ending, [...(groups.get(stem + ending) ?? []), file]);
  }
  const rank = (name: string) => {
    const at = PROPOSED.findIndex((type) => new RegExp(`[-._/]${type}[-._/]`, 'i').test(`/${name}`));
    return at < 0 ? PROPOSED.length : at;
  };
  return [...groups]
    .map(([name, parts]) => choice(name, complete(repo, parts)))
    .sort((a, b) => rank(a.name) - rank(b.name) || a.sizeBytes - b.sizeBytes);
}

/** The parts of one model in order. A repository in which one is missing is refused by that name. */
function complete(repo: string, parts: readonly HubFile[]): HubFile[] {
  const [first] = parts;
  const [, stem, , count, ending] = PART.exec(first?.path ?? '') ?? [];
  if (!first || count === undefined) return [...parts];
  return Array.from({ length: Number(count) }, (_, i) => {
    const name = `${stem}-${String(i + 1).padStart(5, '0')}-of-${count}${ending}`;
    const part = parts.find(({ path }) => path === name);
    if (part) return part;
    throw notThere(name, `${name} is missing in ${repo}: the model is in ${Number(count)} parts, and was not uploaded whole. Choose another revision or copy of it.`);
  });
}

function choice(name: string, files: HubFile[]): HubChoice {
  return { name, files, sizeBytes: files.reduce((sum, { size }) => sum + size, 0) };
}

function notThere(file: string, message: string): WebLoraError {
  return new WebLoraError({ code: 'not_found', file, message });
}
