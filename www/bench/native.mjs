/**
 * web-lora beside ferrotensor, a LoRA trainer in Rust on the same Vulkan device, in turn: steps of the same model.
 * Called by `make bench-peers`, with both built.
 *
 * ferrotensor's step is forward, backward, clipping at norm 1 and AdamW, as ours is here; B begins at zero in both. Its
 * rows are the tokens that have a next one, ours are all: one more.
 */

import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { FOLDER, writeModel } from './model.mjs';
import { median, merge, printRatios, printTable } from './report.mjs';
import { ADAM, CONFIG, LINEARS, LORA, STEP_LABEL, TOKENS } from './shapes.mjs';

const ROUNDS = 3;
/** Of a turn, the first of which compiles and is left out. */
const STEPS = 4;
/** ferrotensor's loss against ours, before anything is learned. */
const TOLERANCE = 1e-4;

/** @typedef {{ step: number, loss: number, seconds: number }} Step */

const run = promisify(execFile);

/** @param {string} lines @returns {Step[]} */
function steps(lines) {
  const found = lines.split('\n').filter((line) => line.includes('"step"'));
  return found.map((line) => JSON.parse(line));
}

async function ours() {
  const { stdout } = await run('cargo', ['bench', '--quiet', '--bench', 'bench_peers', '--', FOLDER, String(STEPS)]);
  return { steps: steps(stdout), device: JSON.parse(stdout.split('\n')[0]).device };
}

async function ferrotensor() {
  const out = await mkdtemp(path.join(tmpdir(), 'ferrotensor-'));
  const options = {
    model: FOLDER,
    data: path.join(FOLDER, 'tokens.json'),
    task: 'pretrain',
    'seq-len': TOKENS,
    'max-steps': STEPS,
    'grad-accum': 1,
    'warmup-steps': 0,
    lr: ADAM.learningRate,
    'lora-rank': LORA.r,
    'lora-alpha': LORA.lora_alpha,
    'lora-targets': Object.keys(LINEARS).map((name) => name.split('.')[1]).join(),
    'log-every': 1,
    out,
  };
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  try {
    const { stderr } = await run('ferrotensor', ['train', ...flags]);
    const device = /^device: (.*)$/m.exec(stderr)?.[1] ?? '';
    return { steps: steps(await readFile(path.join(out, 'metrics.jsonl'), 'utf8')), device };
  } finally {
    await rm(out, { recursive: true });
  }
}

await writeModel();
const CONTENDERS = { ferrotensor, 'web-lora': ours };
/** @type {Record<string, { steps: Step[], device: string }[]>} */
const taken = { ferrotensor: [], 'web-lora': [] };
for (let round = 0; round < ROUNDS; round++) {
  for (const [name, turn] of Object.entries(CONTENDERS)) taken[name].push(await turn());
}
const losses = Object.values(taken).map(([first]) => first.steps[0].loss);
if (!(Math.abs(losses[0] / losses[1] - 1) < TOLERANCE)) throw new Error(`the first loss differs: ${losses.join(', ')}`);

const ms = Object.fromEntries(
  Object.entries(taken).map(([name, turns]) => [
    name,
    turns.flatMap(({ steps }) => steps.slice(1).map(({ seconds }) => 1000 * seconds)),
  ]),
);
const version = (await run('ferrotensor', ['--version'])).stdout.trim();
const [device, date] = [taken['web-lora'][0].device, new Date().toISOString().slice(0, 10)];
console.log(`\nnative, ${device}, ${date}; ${version} on ${taken.ferrotensor[0].device}`);
console.log(`LoRA step: ${STEP_LABEL}, AdamW; of ${ms['web-lora'].length}`);
printTable([
  ['', 'median ms', 'least', 'most', 'first loss'],
  ...Object.entries(ms).map(([name, times], i) => [
    name,
    ...[median(times), Math.min(...times), Math.max(...times)].map((value) => value.toFixed(0)),
    losses[i].toFixed(5),
  ]),
]);
const ratios = { step_ratio_ferrotensor: median(ms.ferrotensor) / median(ms['web-lora']) };
const step = { tokens: TOKENS, rank: LORA.r, ms, losses };
await merge(ratios, 'peers', { model: CONFIG, native: { date, adapter: device, version, step } });
printRatios(ratios);
