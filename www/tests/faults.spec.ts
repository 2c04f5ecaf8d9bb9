/**
 * GPUs that fail: faults/ puts errors of every kind into the calls of a small training, through the package in Node. Here
 * some of them, `SEED` says which; with `FAULTS=all` every one on the null GPU, and one in twenty on the software GPU.
 */

import { spawn, type ChildProcess } from 'node:child_process';
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@playwright/test';
import { rolldown } from 'rolldown';
import { NODE_GPU } from '../chromium.mjs';
import { MODEL_FILES } from './studio.js';

const ALL = process.env.FAULTS === 'all';
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e6));

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const FOLDER = path('../../.cache/faults');
const MODEL = `${FOLDER}/model`;

let child: ChildProcess | undefined;

test.describe.configure({ timeout: ALL ? 7_200_000 : 600_000 });
test.beforeAll(async () => {
  await rm(FOLDER, { recursive: true, force: true });
  await mkdir(MODEL, { recursive: true });
  for (const [from, name] of MODEL_FILES) await copyFile(from, `${MODEL}/${name}`);
  const input = ['sweep', 'actions', 'words', 'preload'].map((name) => path(`faults/${name}.ts`));
  const bundle = await rolldown({ input, platform: 'node', logLevel: 'warn' });
  await bundle.write({ dir: FOLDER, entryFileNames: '[name].mjs', chunkFileNames: '[name]-shared.mjs' });
  await bundle.close();
});
test.afterEach(() => void child?.kill());
test.afterAll(() => rm(FOLDER, { recursive: true, force: true }));

/** Runs one of the programs to its end, and passes on what it says. */
async function run(program: string, args: string[], env: Record<string, string> = {}): Promise<void> {
  const all = [`${FOLDER}/${program}.mjs`, '--dist', path('../dist/'), '--model', MODEL, ...args];
  child = spawn(process.execPath, all, { env: { ...process.env, WEB_LORA_CACHE: `${FOLDER}/cache`, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (text: Buffer) => (said += String(text)));
  const code = await new Promise((resolve) => child?.once('close', resolve));
  console.log(`seed ${SEED}: ${said.trim()}`);
  expect(code, said).toBe(0);
}

/** Every n-th fault, beginning with another each time. */
const everyNth = (n: number) => ['--stride', String(n), '--offset', String(SEED % n)];

test('whatever fails, a kept run ends in the same bytes, or in an error after which it goes on to them', async () => {
  await run('sweep', everyNth(ALL ? 1 : 40));
});

test('a GPU that fails again and again is tried once more, and no oftener', async () => {
  await run('sweep', ['--always', '--kinds', 'lost,hang,throw', ...everyNth(ALL ? 1 : 80)]);
});

test('a run that is not kept ends in the same bytes or in an error', async () => {
  await run('sweep', ['--loose', ...everyNth(ALL ? 1 : 100)]);
});

test('the same on the software GPU', async () => {
  const dawn = ['--dawn', path('../package-tests/node_modules/webgpu/index.js'), '--patience', '60'];
  if (ALL) await run('sweep', [...dawn, ...everyNth(20)], NODE_GPU);
  else await run('sweep', [...dawn, '--kinds', 'lost', '--at', String(310 + (SEED % 90))], NODE_GPU);
});

test('what a GPU cannot do is said, and what would need less', () => run('words', []));

test('whatever is done with an engine, at whatever time, is an orderly end', async () => {
  await run('actions', ['--seed', String(SEED), '--rounds', ALL ? '400' : '10']);
});
