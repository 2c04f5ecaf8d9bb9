/** What the commands share: the flags that name a model, and an engine that has it. */

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { AdapterFiles, ModelSource } from '../../types.js';
import { createEngine, type Engine } from '../index.js';
import { MODEL_FLAGS, UsageError, pick, type Flags } from './flags.js';
import { StatusLine } from './progress.js';

export const SESSION_FLAGS = {
  model: ['text', 'a .gguf file, a Hugging Face folder, a URL of either, or org/name on the Hub'],
  revision: ['text', 'of a model on the Hub: branch, tag or commit'],
  file: ['text', 'of a model on the Hub: which of its files'],
  token: ['text', 'of a model on the Hub: access token; else HF_TOKEN'],
  ...MODEL_FLAGS,
  variant: ['text', 'how products are computed: direct, tiled or tiled-f16, rather than what is measured to be best'],
  json: ['flag', 'JSON on stdout, a line for each thing that happens'],
} satisfies Flags;

export type Values = Record<string, unknown>;

export interface Session {
  engine: Engine;
  values: Values;
  signal: AbortSignal;
  status: StatusLine;
  /** Writes a line of JSON, where that is asked for. */
  tell(event: object): void;
}

/** Opens the GPU for a command, which the first Ctrl-C asks to stop. */
export async function openSession(values: Values): Promise<Session> {
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  const variant = values.variant as 'direct' | undefined;
  const engine = await createEngine({ variant, signal: stop.signal });
  const tell = (event: object) => void (values.json && process.stdout.write(`${JSON.stringify(event)}\n`));
  return { engine, values, signal: stop.signal, status: new StatusLine(process.stderr), tell };
}

export async function loadModel({ engine, values, signal, status, tell }: Session): Promise<string> {
  const { device } = engine;
  status.say(`GPU: ${device.name}${device.software ? ' (a program on the processor: slow)' : ''}`);
  const options = { ...pick(values, MODEL_FLAGS), signal, onProgress: status.progress };
  const model = await engine.loadModel(sourceOf(values), options);
  status.say(`model: ${model.name}, ${(model.parameters / 1e6).toFixed(1)} million parameters, ${model.dtype}`);
  tell({ type: 'model', ...model });
  return model.name;
}

/** What `--model` stands for: what is on the disk comes first. */
export function sourceOf({ model, revision, file, token = process.env.HF_TOKEN }: Values): ModelSource {
  if (typeof model !== 'string') throw new UsageError('--model is missing: a file, a folder, a URL, or org/name on the Hub.');
  if (existsSync(model) || /^(https?|file):/.test(model)) return model;
  if (!/^[\w.-]+\/[\w.-]+$/.test(model)) throw new UsageError(`--model ${model}: there is no such file or folder.`);
  const given = { revision, file, token: token || undefined, endpoint: process.env.HF_ENDPOINT || undefined };
  const known = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { repo: model, ...known };
}

/** The two files of an adapter's folder. */
export async function readAdapter(folder: string): Promise<AdapterFiles> {
  const read = async (name: string) => {
    const path = join(folder, name);
    const bytes = await readFile(path).catch(() => {
      const what = 'an adapter is a folder with adapter_config.json and adapter_model.safetensors';
      throw new UsageError(`${path} cannot be read: ${what}.`);
    });
    return new Uint8Array(bytes);
  };
  return { config: await read('adapter_config.json'), weights: await read('adapter_model.safetensors') };
}

/** The files of examples that a flag names. */
export async function readExamples(flag: string, paths: readonly string[]): Promise<File[]> {
  const read = async (path: string) => {
    const bytes = await readFile(path).catch(() => {
      throw new UsageError(`${flag} ${path}: the file cannot be read.`);
    });
    return new File([bytes], basename(path));
  };
  return Promise.all(paths.map(read));
}
