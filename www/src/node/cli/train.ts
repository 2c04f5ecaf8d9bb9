/** `web-lora train`: from a model and examples to an adapter's two files. */

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AdapterFiles, RunInfo, TrainCallbacks, TrainResult, TrainStep } from '../../types.js';
import { runs, type Task } from '../index.js';
import { ADAPTER_FLAGS, DATA_FLAGS, MERGE_FLAGS, TRAIN_FLAGS, UsageError, flagOf, pick, readFlags, type Flags } from './flags.js';
import { saveMerged } from './merge.js';
import { SESSION_FLAGS, loadModel, openSession, readAdapter, readExamples, type Session } from './session.js';

const OWN_FLAGS = {
  data: ['texts', 'a file of examples (JSON lines, JSON, CSV, TSV, Parquet or text); may be given again'],
  evalData: ['texts', 'the same to evaluate on, instead of a share of the examples'],
  out: ['text', 'folder for adapter_config.json and adapter_model.safetensors'],
  adapter: ['text', 'folder of an adapter to go on from, rather than a new one'],
  merged: ['text', 'folder for the whole model with the adapter merged into it, as well'],
  run: ['text', 'keeps the run under this name, so that --resume can go on with it, whatever ended it'],
  resume: ['flag', 'goes on with the newest --run of this name that is not done, with its own settings'],
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
  run?: string;
  resume?: boolean;
  seed?: number;
}

/** Trains and writes the adapter; false where it was stopped before its end. */
export async function train(args: string[]): Promise<boolean> {
  const values = readFlags(args, Object.assign({}, ...Object.values(TRAIN_GROUPS)));
  const { data, evalData, out, adapter, merged, run, resume, seed } = values as Given;
  if (resume) return goOn(values, run, out, merged);
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

  const options = pick(values, TRAIN_FLAGS);
  return learn(session, out, merged, (callbacks) => engine.train(options, run === undefined ? callbacks : { ...callbacks, run }));
}

/** Goes on with a run; false where it was stopped before its end. */
async function goOn(values: Record<string, unknown>, name: string | undefined, out: string | undefined, merged: string | undefined): Promise<boolean> {
  if (name === undefined) throw new UsageError('--run is missing: the name of the run to go on with.');
  if (!out) throw new UsageError('--out is missing: a folder for the adapter.');
  const own = { ...SESSION_FLAGS, ...MERGE_FLAGS, run: true, resume: true, out: true, merged: true };
  const other = Object.keys(values).find((given) => !(given in own));
  if (other !== undefined) throw new UsageError(`${flagOf(other)} cannot be given with --resume: the run has settings of its own.`);
  const run = await unfinished(name);
  await mkdir(out, { recursive: true });
  const session = await openSession(values);
  if (values.model !== undefined) await loadModel(session);
  session.status.say(`run: ${run.name}, ${run.step} of ${run.steps} steps are kept`);
  return learn(session, out, merged, (callbacks) => session.engine.resumeRun(run.id, callbacks));
}

/** The newest run of a name that is not done. */
async function unfinished(name: string): Promise<RunInfo> {
  const named = (await runs.list()).filter((run) => run.name === name);
  const run = named.find(({ status }) => status !== 'done');
  if (run) return run;
  const why = named.length > 0 ? 'is done' : 'is not there';
  throw new UsageError(`--run ${name}: a run of this name ${why}. web-lora runs lists those that are kept.`);
}

/** Trains to the end and writes the adapter; false where it was stopped before. */
async function learn(session: Session, out: string, merged: string | undefined, start: Start): Promise<boolean> {
  const { engine, status } = session;
  try {
    const stopped = await follow(session, start);
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

type Start = (callbacks: TrainCallbacks) => Task<TrainStep, TrainResult>;

/** Says what happens in a training; whether it was stopped. */
async function follow({ signal, status, tell }: Session, start: Start): Promise<boolean> {
  const run = start({
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
    onRun: (id) => tell({ type: 'run', id }),
    onSaved: (step) => tell({ type: 'checkpoint', step }),
    onUnsaved: ({ message }) => {
      tell({ type: 'unsaved', message });
      status.say(message);
    },
    onRecovering: ({ message }) => {
      tell({ type: 'recovering', message });
      status.say(`${message} The run goes on from its newest checkpoint.`);
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
  const saved = options.modulesToSave as string[] | undefined;
  return {
    ...options,
    ...Object.fromEntries(lists.map(([name, given]) => [name, names(given)])),
    ...(saved ? { modulesToSave: saved.flatMap((text) => text.split(',')) } : {}),
  };
}

async function write(folder: string, { config, weights }: AdapterFiles): Promise<void> {
  await writeFile(join(folder, 'adapter_config.json'), config);
  await writeFile(join(folder, 'adapter_model.safetensors'), weights);
}
