/**
 * Does with an engine whatever can be done, in any order and at any time, on the null GPU: what is asked twice, stopped in
 * its midst, asked for too early or given up halfway. Nothing may end but as it should: as the state of things allows, or
 * in one of the errors that say so. No call to the GPU may be refused, and in the end its memory is as at first.
 *
 *     node actions.mjs --dist FOLDER --model FOLDER [--seed N] [--rounds N]
 */

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Engine, ErrorCode } from '../../dist/index.js';
import { openEngines } from './engines.js';
import { BUFFERS, BYTES } from './order.js';
import { CHATS, codeOf } from './scenario.js';

const { values } = parseArgs({
  options: {
    dist: { type: 'string', default: '' },
    model: { type: 'string', default: '' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1e6)) },
    rounds: { type: 'string', default: '40' },
  },
});
const BROKEN = join(values.model, 'broken.gguf');
await writeFile(BROKEN, 'GGUF');
const next = random(Number(values.seed));
const engines = await openEngines(values);
const { webLora, numbers } = engines;
let done = 0;

/** What should be there. */
interface Model {
  model: boolean;
  data: boolean;
  adapter: boolean;
  /** A training by hand is under way. */
  stepping: boolean;
}

interface Action {
  act: (engine: Engine, signal: AbortSignal) => PromiseLike<unknown>;
  /** What it needs, without which it is refused. */
  needs?: Partial<Model>;
  /** What is there when it is done. */
  leaves?: Partial<Model>;
}

const OPTIONS = { steps: 3, batchSize: 2, tokensPerPass: 64 };
const ANSWER = { messages: [{ role: 'user', content: 'Hi' }], maxNewTokens: 4 };
const READY = { model: true, data: true };
const NOTHING: Model = { model: false, data: false, adapter: false, stepping: false };
const load = (engine: Engine, signal?: AbortSignal) => engine.loadModel(values.model, { contextLength: 64, ...(signal ? { signal } : {}) });

const ACTIONS: Record<string, Action> = {
  load: { act: load, leaves: { ...NOTHING, model: true } },
  read: { act: (engine, signal) => engine.loadDataset(CHATS, { evalShare: 0.25 }, { signal }), needs: { model: true }, leaves: { data: true, stepping: false } },
  forget: { act: (engine) => engine.clearDataset(), leaves: { data: false, stepping: false } },
  adapter: { act: (engine, signal) => engine.newAdapter({ r: 2, targetModules: ['q_proj'] }, { signal }), needs: { model: true }, leaves: { adapter: true, stepping: false } },
  save: { act: (engine) => engine.exportAdapter('mlx'), needs: { adapter: true } },
  train: { act: (engine, signal) => engine.train(OPTIONS, { signal }), needs: READY, leaves: { adapter: true, stepping: false } },
  'train and evaluate': {
    act: (engine, signal) => engine.train({ ...OPTIONS, evalSteps: 1, loadBestModelAtEnd: true, samplePrompts: ['Hi'] }, { signal }),
    needs: READY,
    leaves: { adapter: true, stepping: false },
  },
  evaluate: { act: (engine, signal) => engine.evaluate({}, { signal }), needs: READY },
  answer: { act: (engine, signal) => engine.generate(ANSWER, { signal }), needs: { model: true } },
  profile: { act: (engine, signal) => engine.profile(OPTIONS, { signal }), needs: READY, leaves: { adapter: true, stepping: false } },
  begin: { act: (engine, signal) => engine.startTraining(OPTIONS, { signal }), needs: READY, leaves: { adapter: true, stepping: true } },
  forward: { act: (engine) => engine.forwardBackward([0, 1]), needs: { stepping: true } },
  step: { act: (engine) => engine.optimStep(), needs: { stepping: true } },
  state: { act: (engine) => engine.saveState(), needs: { stepping: true } },
  end: { act: (engine) => engine.endTraining(), leaves: { stepping: false } },
};
const NAMES = Object.keys(ACTIONS);

/** What may come of an action that is stopped, or done while others are. */
const ORDERLY: readonly ErrorCode[] = ['not_ready', 'cancelled', 'disposed'];
const LONGEST_MS = 20_000;

const log: string[] = [];
try {
  for (let round = 0; round < Number(values.rounds); round += 1) await play();
} catch (error) {
  console.log(`seed ${values.seed}: ${log.join(', ')}`);
  console.log(engines.said());
  console.log(error);
  process.exit(1);
}
console.log(`${values.rounds} engines, seed ${values.seed}: ${done} actions as they should be`);
process.exit(0);

/** The life of one engine: in order, then all at once, then in order again, to its end. */
async function play(): Promise<void> {
  log.length = 0;
  engines.prepare(undefined);
  const engine = await webLora.createEngine({ variant: 'direct' });
  const atFirst = memory();
  await inOrder(engine);
  const begun = Array.from({ length: 2 + Math.floor(next() * 4) }, () => atOnce(engine));
  const disposes = next() < 0.2;
  if (disposes) {
    await pause(next() * 20);
    log.push('dispose');
    engine.dispose();
    engine.dispose();
  }
  await Promise.all(begun);
  if (!disposes) {
    await load(engine);
    await inOrder(engine);
    // What is loaded goes before what takes its place is looked at.
    const error = await failure(engine.loadModel(BROKEN));
    assert(error === 'bad_file' || error === 'unsupported', `a model that is none: ${error}`);
    assert(memory() === atFirst, `${memory()} where there were ${atFirst} at first`);
  }
  engine.dispose();
}

/** Some actions, each awaited, and each as it should be. */
async function inOrder(engine: Engine): Promise<void> {
  await load(engine);
  const state: Model = { ...NOTHING, model: true };
  for (let n = 0; n < 12; n += 1) {
    const { name, action } = pick();
    log.push(name);
    const needs = Object.entries(action.needs ?? {}) as [keyof Model, boolean][];
    const can = needs.every(([what]) => state[what]);
    const code = await failure(action.act(engine, new AbortController().signal));
    assert(code === (can ? undefined : 'not_ready'), `${name} with ${JSON.stringify(state)}: ${code}`);
    if (can) Object.assign(state, action.leaves);
  }
}

/** One that is stopped at some time, or not, while others go on. */
async function atOnce(engine: Engine): Promise<void> {
  const { name, action } = pick();
  const stop = new AbortController();
  const stops = next() < 0.6;
  const after = next() * 40;
  log.push(stops ? `${name} stopped` : `${name} too`);
  const ended = failure(action.act(engine, stop.signal));
  if (stops) {
    await pause(after);
    stop.abort();
  }
  const code = await ended;
  assert(code === undefined || ORDERLY.includes(code), `${name}: ${code}`);
}

function pick(): { name: string; action: Action } {
  const name = NAMES[Math.floor(next() * NAMES.length)] as string;
  return { name, action: ACTIONS[name] as Action };
}

/** What it fails with, if it does, in time. */
async function failure(work: PromiseLike<unknown>): Promise<ErrorCode | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error('it never ended')), LONGEST_MS)));
  const ended = Promise.resolve(work).then(
    () => undefined,
    (error: unknown) => codeOf(webLora, error),
  );
  done += 1;
  return Promise.race([ended, late]).finally(() => clearTimeout(timer));
}

function memory(): string {
  return `${numbers[BYTES]} bytes in ${numbers[BUFFERS]} buffers`;
}

function assert(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** The same numbers from 0 to 1 for the same seed (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), seed | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
