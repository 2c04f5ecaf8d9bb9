/** `web-lora train`: from a model and examples to an adapter's two files. */

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AdapterFiles } from '../../types.js';
import { ADAPTER_FLAGS, DATA_FLAGS, MERGE_FLAGS, TRAIN_FLAGS, UsageError, pick, readFlags, type Flags } from './flags.js';
import { saveMerged } from './merge.js';
import { SESSION_FLAGS, loadModel, openSession, readAdapter, readExamples, type Session } from './session.js';

const OWN_FLAGS = {
  data: ['texts', 'a file of examples (JSON lines, JSON, CSV, TSV, Parquet or text); may be given again'],
  evalData: ['texts', 'the same to evaluate on, instead of a share of the examples'],
  out: ['text', 'folder for adapter_config.json and adapter_model.safetensors'],
  adapter: ['text', 'folder of an adapter to go on from, rather than a new one'],
  merged: ['text', 'folder for the whole model with the adapter merged into it, as well'],
  ...MERGE_FLAGS,
} satisfies Flags;

export const TRAIN_GROUPS: Record<string, Flags> = {
  'what to train': { ...SESSION_FLAGS, ...OWN_FLAGS, ...DATA_FLAGS },
  'the adapter, as in PEFT': ADAPTER_FLAGS,
  'the training': TRAIN_FLAGS,
};

interface Given {
  data?: string[];
  evalData?: string[];
  out?: string;
  adapter?: string;
  merged?: string;
  seed?: number;
}

/** Trains and writes the adapter; false where it was stopped before its end. */
export async function train(args: string[]): Promise<boolean> {
  const values = readFlags(args, Object.assign({}, ...Object.values(TRAIN_GROUPS)));
  const { data, evalData, out, adapter, merged, seed } = values as Given;
  if (!data) throw new UsageError('--data is missing: a file of examples.');
  if (!out) throw new UsageError('--out is missing: a folder for the adapter.');
  // What cannot be read or written is best known before the work.
  const examples = await readExamples('--data', data);
  const heldOut = evalData && { evalData: await readExamples('--eval-data', evalData) };
  const start = adapter === undefined ? undefined : await readAdapter(adapter);
  await mkdir(out, { recursive: true });

  const session = await openSession(values);
  const { engine, signal, status, tell } = session;
  await loadModel(session);
  const seeded = seed === undefined ? {} : { seed };
  const reading = { ...pick(values, DATA_FLAGS), ...heldOut, ...seeded };
  const report = await engine.loadDataset(examples, reading, { signal });
  tell({ type: 'data', ...report });
  status.say(`data: ${report.examples} examples, ${report.tokens} tokens, ${report.supervisedTokens} of them to learn`);
  for (const { file, line, message } of report.errors) status.say(`data: ${file}, line ${line} was left out: ${message}`);
  const info = start
    ? await engine.loadAdapter(start, { signal })
    : await engine.newAdapter({ ...modules(pick(values, ADAPTER_FLAGS)), ...seeded }, { signal });
  tell({ type: 'adapter', ...info });
  status.say(`adapter: ${info.parameters} numbers to train beside the model’s ${info.baseParameters}`);

  try {
    const stopped = await learn(session);
    await write(out, await engine.saveAdapter());
    process.stdout.write(session.values.json ? `${JSON.stringify({ type: 'saved', out })}\n` : `${out}\n`);
    if (merged !== undefined && !stopped) await saveMerged(session, merged);
    return !stopped;
  } catch (error) {
    // What was learned before a fault is not lost.
    if (engine.lastAdapter) {
      await write(out, engine.lastAdapter);
      status.say(`the adapter as it was some steps before the fault is in ${out}`);
    }
    throw error;
  } finally {
    engine.dispose();
  }
}

async function learn({ engine, values, signal, status, tell }: Session): Promise<boolean> {
  const run = engine.train(pick(values, TRAIN_FLAGS), {
    signal,
    onProgress: status.progress,
    onPlan: (plan) => tell({ type: 'plan', ...plan }),
    onEval: (evaluation) => {
      tell({ type: 'evaluation', ...evaluation });
      const { step, loss, best } = evaluation;
      status.say(`step ${step}: evaluation loss ${loss.toFixed(4)}${best ? ', the best yet' : ''}`);
    },
    onSample: (sample) => {
      tell({ type: 'sample', ...sample });
      status.say(`step ${sample.step}: ${JSON.stringify(sample.prompt)} → ${JSON.stringify(sample.text)}`);
    },
  });
  for await (const step of run) {
    tell({ type: 'step', ...step });
    status.step(step);
  }
  const result = await run;
  tell({ type: 'result', ...result });
  const ends = { end: 'trained', early: 'stopped early, as evaluations had ceased to get better', cancelled: 'stopped' };
  status.say(`${ends[result.stopped]}: ${result.steps} steps`);
  return result.stopped === 'cancelled';
}

/** One text without a comma may be a pattern or `all-linear`; several are names. */
function modules(options: Record<string, unknown>): Record<string, unknown> {
  const names = (given: unknown) => {
    const all = (given as string[]).flatMap((text) => text.split(','));
    return all.length === 1 ? all[0] : all;
  };
  const lists = Object.entries(options).filter(([name]) => name === 'targetModules' || name === 'excludeModules');
  return { ...options, ...Object.fromEntries(lists.map(([name, given]) => [name, names(given)])) };
}

async function write(folder: string, { config, weights }: AdapterFiles): Promise<void> {
  await writeFile(join(folder, 'adapter_config.json'), config);
  await writeFile(join(folder, 'adapter_model.safetensors'), weights);
}
