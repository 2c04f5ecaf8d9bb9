/**
 * Storage that refuses the k-th thing that is asked of it, for every k, while a run is made, saved and ended: the writer
 * says so and can be asked again, and what lies in the folder is always a state that was saved.
 */

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { loadInside, noise, RUN } from './run.mjs';

const STEPS = 4;

/** @type {typeof import('./inside.js')} */
let inside;
/** @type {string} */
let folder;
/** Calls of storage so far, and those that it refuses. */
let calls = 0;
/** @type {(call: number) => boolean} */
let refuses = () => false;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'web-lora-full-'));
  inside = await loadInside(folder);
  const { storage, locks } = inside.diskPlatform;
  const getDirectory = async () => failing(await storage.getDirectory());
  inside.usePlatform({ storage: { ...storage, getDirectory }, locks });
});
after(() => rm(folder, { recursive: true }));

test('full for one call, whichever: the next save has it all', async () => {
  let tried = 0;
  for (let k = 1; ; k++, tried++) {
    const { refused, id } = await attempt((call) => call === k);
    const { state, steps } = await found(id);
    assert.equal(state, 'done', `call ${k}`);
    assert.deepEqual(steps, [1, 2, 3, 4], `call ${k}`);
    if (calls < k) break;
    assert.ok(refused <= 1, `call ${k}: ${refused} were refused`);
  }
  // Directories, files, bytes, sizes, flushes, closings.
  assert.ok(tried > 60, `${tried} calls`);
});

test('full from some call on, whichever: what was saved before is there', async () => {
  for (let k = 1; ; k++) {
    const { id, saved } = await attempt((call) => call >= k);
    if (calls < k) break;
    const { state, steps, gone } = await found(id);
    if (saved.length === 0 && (gone || state === undefined)) continue;
    // Of a save that failed at its very end the checkpoint may be whole: it is one that was wanted.
    if (state === 'done') continue;
    assert.ok(state !== undefined && state >= Math.max(0, ...saved), `call ${k}: ${state} of ${saved}`);
    assert.ok(steps.length >= state, `call ${k}: figures of ${steps} where the state is of ${state}`);
  }
});

/**
 * Makes a run of a few steps while calls are refused; what is refused is tried again with the step after, and once more
 * at the end with room.
 * @param {(call: number) => boolean} which
 */
async function attempt(which) {
  await rm(join(folder, 'cache'), { recursive: true, force: true });
  [calls, refuses] = [0, which];
  const writer = await inside.RunWriter.create('a run', RUN.config, RUN.examples);
  writer.startFrom(RUN.start);
  let refused = 0;
  /** @type {number[]} */
  const saved = [];
  const count = (/** @type {unknown} */ error) => {
    assert.ok(error instanceof DOMException || (error instanceof Error && 'code' in error), String(error));
    refused += 1;
  };
  for (let step = 1; step <= STEPS; step++) {
    writer.note({ type: 'step', ...RUN.figure(step, STEPS) });
    await writer.save(noise(300, step)).then(() => saved.push(step), count);
  }
  const end = () => writer.end('done', RUN.adapter);
  // In room again where only one call was to fail.
  await end().catch(async (error) => {
    count(error);
    await end().catch(() => undefined);
  });
  refuses = () => false;
  writer.close();
  return { refused, id: writer.info.id, saved };
}

/** @param {string} id */
async function found(id) {
  const none = { state: undefined, steps: [], gone: true };
  const steps = await inside.runs.metrics(id).then(({ steps }) => steps.map(({ step }) => step), () => undefined);
  if (!steps) return none;
  try {
    const { writer, state } = await inside.RunWriter.open(id);
    writer.close();
    const at = Array.from({ length: STEPS }, (_, at) => at + 1).find((step) => String(noise(300, step)) === String(state));
    assert.equal(at === undefined, state === undefined);
    return { state: at, steps, gone: false };
  } catch (error) {
    const { code } = /** @type {{ code?: string }} */ (error);
    // Where run.json was never written there is no run yet.
    assert.ok(code === 'not_ready' || code === 'bad_file', String(error));
    return code === 'not_ready' ? { state: /** @type {const} */ ('done'), steps, gone: false } : { ...none, steps };
  }
}

/**
 * The same handle or stream, which refuses when it is told to; so do those that it gives.
 * @template {object} Thing
 * @param {Thing} thing
 * @returns {Thing}
 */
function failing(thing) {
  return new Proxy(thing, {
    get(target, name) {
      const value = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      if (name === 'values' || name === 'abort') return value.bind(target);
      return (/** @type {unknown[]} */ ...args) => {
        // A file that is open can always be closed; a stream writes only then.
        const can = name !== 'close' || 'abort' in target;
        if (can && refuses(++calls)) throw new DOMException('The disk is full', 'QuotaExceededError');
        const result = value.apply(target, args);
        const wrap = (/** @type {unknown} */ made) => (typeof made === 'object' && made !== null && !('arrayBuffer' in made) ? failing(made) : made);
        return result instanceof Promise ? result.then(wrap) : wrap(result);
      };
    },
  });
}
