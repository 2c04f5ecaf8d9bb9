/**
 * Every file of a run's folder cut short and changed, at every byte of run.json and at many of all others: what opens is
 * what was written, at one of the last two checkpoints, or an error says that it is damaged.
 */

import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { loadInside, noise, RUN } from './run.mjs';

/** @typedef {typeof import('./inside.js')} Inside */

/** Offsets tried of a file that is longer, but for one that is to be tried at all. */
const OFFSETS = 100;
const STEPS = 6;

/** @type {Inside} */
let inside;
/** @type {string} */
let folder;
/** @type {Map<number, string>} */
const states = new Map();
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'web-lora-damage-'));
  inside = await loadInside(folder);
});
after(() => rm(folder, { recursive: true }));

test('a run that was cut off: whatever is damaged, it opens as it was or says so', async () => {
  const id = await makeRun();
  const open = async () => {
    const { writer, state, data } = await inside.RunWriter.open(id);
    try {
      assert.deepEqual(data, RUN.examples);
      assert.deepEqual(writer.info.config, RUN.config);
      const begins = await writer.startingAdapter();
      assert.deepEqual([begins?.config, begins?.weights], [RUN.start.config, RUN.start.weights]);
      const at = [...states].find(([, text]) => text === String(state))?.[0];
      assert.ok(at === STEPS || at === STEPS - 1, `the state of step ${at}`);
      await figures(id);
      return at === STEPS ? 'as it was' : 'the checkpoint before';
    } finally {
      writer.close();
    }
  };
  const outcomes = await damageAll(id, open, 'run.json');
  // Each of these has been seen to happen.
  assert.deepEqual(Object.keys(outcomes).sort(), ['as it was', 'bad_file', 'the checkpoint before']);
  assert.deepEqual(outcomes['as it was']?.sort(), [`checkpoint-${(STEPS - 1) % 2}`, 'metrics.jsonl']);
  assert.deepEqual(outcomes['the checkpoint before'], [`checkpoint-${STEPS % 2}`]);
});

test('both checkpoints damaged: it is said, and nothing begins anew in silence', async () => {
  const id = await makeRun();
  for (const name of ['checkpoint-0', 'checkpoint-1']) await flip(join(place(id), name), 60);
  await assert.rejects(inside.RunWriter.open(id), { code: 'bad_file', message: /checkpoints/ });
});

test('a run that ended: what came of it, its examples and its figures', async () => {
  const id = await makeRun(async (writer) => writer.end('done', RUN.adapter));
  const outcomes = await damageAll(id, async () => {
    const [found] = await inside.runs.list();
    assert.deepEqual(await inside.runs.damaged(), found ? [] : [id]);
    if (found) assert.deepEqual([found.loss, found.config], [1 / STEPS, RUN.config]);
    const came = await inside.runs.adapter(id);
    assert.deepEqual([came?.config, came?.weights], [RUN.adapter.config, RUN.adapter.weights]);
    for (const [at, file] of (await inside.runs.data(id)).entries()) {
      assert.deepEqual(new Uint8Array(await file.arrayBuffer()), RUN.examples[at]?.bytes);
    }
    await figures(id);
    return 'as it was';
  });
  assert.deepEqual(Object.keys(outcomes).sort(), ['as it was', 'bad_file']);
});

/**
 * A run of a few steps, each with a checkpoint; its folder's name.
 * @param {(writer: import('./inside.js').RunWriter) => Promise<void>} end
 */
async function makeRun(end = async () => undefined) {
  await rm(join(folder, 'cache'), { recursive: true, force: true });
  const writer = await inside.RunWriter.create('a run', RUN.config, RUN.examples);
  await writer.startFrom(RUN.start);
  for (let step = 1; step <= STEPS; step++) {
    const state = noise(5000 + step, step);
    states.set(step, String(state));
    writer.note({ type: 'step', ...RUN.figure(step, STEPS) });
    await writer.save(state);
  }
  await end(writer);
  writer.close();
  return writer.info.id;
}

/**
 * Tries `open` with each file in turn cut off and changed at offset after offset: which outcome there was with which files.
 * @param {string} id
 * @param {() => Promise<string>} open
 * @param {string} [everywhere] the file to try at every byte
 */
async function damageAll(id, open, everywhere) {
  /** @type {Record<string, string[]>} */
  const outcomes = {};
  for (const name of await readdir(place(id))) {
    const path = join(place(id), name);
    const whole = await readFile(path);
    const stride = name === everywhere ? 1 : Math.max(1, Math.floor(whole.length / OFFSETS));
    // All of a checkpoint's header, which is its manifest.
    const offsets = Array.from({ length: whole.length }, (_, at) => at).filter((at) => at % stride === 0 || (at < 64 && name.startsWith('checkpoint')));
    for (const at of offsets) {
      const changed = Buffer.from(whole);
      changed.writeUInt8(changed.readUInt8(at) ^ (1 << at % 8), at);
      for (const damaged of [whole.subarray(0, at), changed]) {
        await writeFile(path, damaged);
        const outcome = await open().catch((/** @type {Error & { code?: string }} */ error) => {
          if (error.code === 'bad_file') return 'bad_file';
          error.message += ` (${name}, byte ${at})`;
          throw error;
        });
        const seen = (outcomes[outcome] ??= []);
        if (!seen.includes(name)) seen.push(name);
      }
    }
    await rm(path);
    assert.notEqual(await open().catch(({ code }) => code), undefined);
    await writeFile(path, whole);
  }
  return outcomes;
}

/** @param {string} id */
async function figures(id) {
  const { steps } = await inside.runs.metrics(id);
  for (const step of steps) assert.deepEqual({ ...step }, { type: 'step', ...RUN.figure(step.step, STEPS) });
}

/** @param {string} id */
function place(id) {
  return join(folder, 'cache', 'web-lora-runs', id);
}

/** @param {string} path @param {number} at */
async function flip(path, at) {
  const bytes = await readFile(path);
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  await writeFile(path, bytes);
}
