/** A small training as an app runs it, and what there is in the end. */

import { createHash } from 'node:crypto';
import type { Engine, RunInfo, TrainCallbacks, WebLoraError } from '../../dist/index.js';
import type * as Package from '../../dist/node/index.js';

export const STEPS = 3;
export const CHATS = ['Hi', 'Hey', 'Hello', 'Howdy']
  .map((content) => JSON.stringify({ messages: [{ role: 'user', content }, { role: 'assistant', content: 'Ahoy!' }] }))
  .join('\n');

/** How a training ended. */
export interface Outcome {
  /** Of the weights that were saved; undefined where it ended in an error. */
  digest?: string;
  error?: unknown;
  /** Under which the run is kept, where it came so far. */
  run?: string;
  /** Steps told, and those saved. */
  told: number[];
  saved: number[];
  recoveries: string[];
  /** The adapters there are in the end, as one text. */
  adapters?: string;
}

export interface Setting {
  /** A folder. */
  model: string;
  /** Seconds. */
  patience: number;
  kept: boolean;
}

/** From nothing to an adapter. */
export async function train({ createEngine }: typeof Package, { model, patience, kept }: Setting): Promise<Outcome> {
  const outcome: Outcome = { told: [], saved: [], recoveries: [] };
  const callbacks: TrainCallbacks = {
    onRun: (id) => (outcome.run = id),
    onStep: ({ step }) => outcome.told.push(step),
    onSaved: (step) => outcome.saved.push(step),
    onRecovering: ({ code }) => outcome.recoveries.push(code),
    ...(kept ? { run: 'faults' } : {}),
  };
  let engine: Engine | undefined;
  try {
    engine = await createEngine({ variant: 'direct', patience });
    await engine.loadModel(model, { contextLength: 64 });
    await engine.loadDataset(CHATS, { name: 'chats.jsonl' });
    await engine.newAdapter({ r: 2, loraAlpha: 4, seed: 7, targetModules: ['q_proj', 'v_proj', 'down_proj'] });
    await engine.addAdapter('beside');
    await engine.train({ steps: STEPS, batchSize: 2, learningRate: 0.01, saveSteps: 1, tokensPerPass: 64 }, callbacks);
    // Asked first, as what saves may be of an engine that is gone.
    outcome.adapters = JSON.stringify(await engine.listAdapters());
    outcome.digest = digest((await engine.saveAdapter()).weights);
  } catch (error) {
    outcome.error = error;
  } finally {
    engine?.dispose();
  }
  return outcome;
}

/** From where a run was kept to its end. */
export async function resume({ createEngine, runs }: typeof Package, id: string, { model, patience }: Setting): Promise<string> {
  const { status } = (await runs.list()).find((run) => run.id === id) as RunInfo;
  if (status !== 'done') {
    const engine = await createEngine({ variant: 'direct', patience });
    try {
      await engine.loadModel(model, { contextLength: 64 });
      await engine.resumeRun(id);
    } finally {
      engine.dispose();
    }
  }
  const files = await runs.adapter(id);
  if (!files) throw new Error(`run ${id} is done and has no adapter`);
  return digest(files.weights);
}

export function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 16);
}

/** The code of an error that is one of the package's. */
export function codeOf({ WebLoraError: Class }: typeof Package, error: unknown): WebLoraError['code'] {
  if (error instanceof Class) return error.code;
  throw new Error(`an error that is none of the package's: ${error instanceof Error ? error.stack : String(error)}`);
}
