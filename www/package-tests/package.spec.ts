/** The packed package in each place that it is for: it loads, trains, answers, and everywhere the same. */

import { readFile, stat } from 'node:fs/promises';
import { expect, test, type Page } from '@playwright/test';
import { build, createServer } from 'vite';
import webpack from 'webpack';
import { APP, command, install, installDawn, interrupt, node, serve } from './installed.js';

interface Outcome {
  examples: number;
  losses: number[];
  text: string;
  config: string;
  weights: number[];
}

/** From the plain page, which the others are held against. */
let reference: Outcome | undefined;

test.describe.configure({ mode: 'serial' });
test.beforeAll(install);

/** Opens the page and waits for what it comes to; nothing may be asked of another host, nor fail to be found. */
async function outcomeOf(page: Page, url: string): Promise<Outcome> {
  const failed: string[] = [];
  page.on('response', (response) => response.status() >= 400 && !/(tokenizer|special|generation|chat|index)[^/]*$/.test(response.url()) && failed.push(response.url()));
  page.on('request', (request) => new URL(request.url()).hostname !== 'localhost' && failed.push(request.url()));
  page.on('pageerror', (error) => failed.push(error.message));
  await page.goto(url);
  await page.waitForFunction(() => 'outcome' in globalThis);
  const outcome = await page.evaluate(() => (globalThis as unknown as { outcome: Promise<Outcome> }).outcome);
  expect(failed).toEqual([]);
  return outcome;
}

function expectLearned({ examples, losses, text }: Outcome): void {
  expect(examples).toBe(4);
  expect(losses).toHaveLength(30);
  expect(losses[29]).toBeLessThan(0.1);
  expect(text.trim()).toBe('Ahoy!');
}

test('a page without a bundler', async ({ page }) => {
  const { url, close } = await serve(APP);
  reference = await outcomeOf(page, `${url}plain.html`);
  expectLearned(reference);
  close();
});

test('a Vite app, built', async ({ page }) => {
  await build({ root: APP, configFile: false, logLevel: 'error', build: { outDir: 'vite', target: 'es2022' } });
  const { url, close } = await serve(`${APP}/vite`);
  expect(await outcomeOf(page, url)).toEqual(reference);
  close();
});

test('a Vite app under development', async ({ page }) => {
  const server = await createServer({ root: APP, configFile: false, logLevel: 'error', appType: 'mpa', server: { port: 0, watch: null } });
  await server.listen();
  expect(await outcomeOf(page, server.resolvedUrls?.local[0] ?? '')).toEqual(reference);
  await server.close();
});

test('a webpack app', async ({ page }) => {
  const compiler = webpack({
    context: APP,
    mode: 'production',
    entry: './main.js',
    output: { path: `${APP}/webpack`, filename: 'main.js', publicPath: 'auto' },
    performance: false,
  });
  const stats = await new Promise<webpack.Stats>((resolve, reject) =>
    compiler.run((error, stats) => (stats ? resolve(stats) : reject(error ?? new Error('webpack said nothing')))),
  );
  expect(stats.toJson({ errors: true, warnings: true })).toMatchObject({ errors: [], warnings: [] });
  // The page of the app, with webpack's main.js in the place of ours.
  const { url, close } = await serve(`${APP}/webpack`);
  expect(await outcomeOf(page, `${url}index.html`)).toEqual(reference);
  close();
});

test('Node imports it and nothing happens', async () => {
  const watch = ['window', 'document', 'navigator', 'Worker', 'location', 'localStorage'];
  const script = `
    for (const name of ${JSON.stringify(watch)}) {
      Object.defineProperty(globalThis, name, { get() { throw new Error(name + ' was touched') } });
    }
    const before = Object.getOwnPropertyNames(globalThis).join();
    for (const entry of ['web-lora', './node_modules/web-lora/dist/index.js']) {
      const { createEngine, WebLoraError } = await import(entry);
      if (typeof createEngine !== 'function' || typeof WebLoraError !== 'function') throw new Error('not all is there');
    }
    if (Object.getOwnPropertyNames(globalThis).join() !== before) throw new Error('a global was added');
  `;
  expect(await node(['--input-type=module', '--eval', script])).toEqual({ code: 0, stdout: '', stderr: '' });
});

const INPUTS = ['--model', 'model', '--data', 'data.jsonl', '--variant', 'direct'];
const SETTINGS = ['--rank', '8', '--lora-alpha', '8', '--steps', '30', '--learning-rate', '0.01', '--warmup-steps', '5'];

test('the command says what is wrong, and how it ended', async () => {
  const without = await command(['train', ...INPUTS, ...SETTINGS, '--out', 'none']);
  expect(without).toMatchObject({ code: 1, stdout: '' });
  expect(without.stderr).toContain('npm install webgpu');
  await installDawn();
  for (const [args, message] of [
    [['train', '--data', 'data.jsonl', '--out', 'none'], '--model is missing'],
    [['train', '--model', 'model', '--out', 'none'], '--data is missing'],
    [['train', ...INPUTS], '--out is missing'],
    [['train', ...INPUTS, '--out', 'none', '--stepz', '3'], '--stepz'],
    [['train', ...INPUTS, '--out', 'none', '--steps', 'three'], '--steps must be a number'],
    [['train', '--model', 'nowhere.gguf', '--data', 'data.jsonl', '--out', 'none'], 'no such file'],
    [['train', ...INPUTS, '--out', 'none', '--learning-rate=-1'], '--learning-rate'],
    [['tune'], 'no command tune'],
  ] as const) {
    const ran = await command([...args]);
    expect(ran, args.join(' ')).toMatchObject({ code: 2, stdout: '' });
    expect(ran.stderr).toContain(message);
  }
  expect(await command(['--help'])).toMatchObject({ code: 0, stderr: '' });
  expect((await command(['train', '--help'])).stdout).toContain('--learning-rate');
});

test('the command trains the adapter that the page trains', async () => {
  const ran = await command(['train', ...INPUTS, ...SETTINGS, '--out', 'adapter']);
  expect(ran).toMatchObject({ code: 0, stdout: 'adapter\n' });
  expect(ran.stderr).toMatch(/step 30\/30 .*loss/);
  expect(await readFile(`${APP}/adapter/adapter_config.json`, 'utf8')).toBe(reference?.config);
  expect([...(await readFile(`${APP}/adapter/adapter_model.safetensors`))]).toEqual(reference?.weights);
});

test('Ctrl-C ends the command, which keeps what was learned', async () => {
  const endless = ['--rank', '8', '--steps', '100000', '--out', 'stopped'];
  expect(await interrupt(['train', ...INPUTS, ...endless], 'step ')).toBe(130);
  const files = await Promise.all(['config.json', 'model.safetensors'].map((name) => stat(`${APP}/stopped/adapter_${name}`)));
  expect(files.map(({ size }) => size > 0)).toEqual([true, true]);
});

test('the command answers, and foresees', async () => {
  const asked = await command(['generate', '--model', 'model', '--adapter', 'adapter', '--prompt', 'Hi', '--temperature', '0', '--max-new-tokens', '8', '--variant', 'direct']);
  expect(asked).toMatchObject({ code: 0, stdout: 'Ahoy!\n' });
  const told = await command(['info', '--model', 'model', '--rank', '8', '--variant', 'direct', '--json']);
  expect(JSON.parse(told.stdout)).toMatchObject({ type: 'info', forecast: { recompute: 0 } });
});

test('the command merges, and what it writes answers alone', async () => {
  const given = ['--model', 'model', '--adapter', 'adapter', '--variant', 'direct'];
  const merged = await command(['merge', ...given, '--out', 'merged', '--dtype', 'f32', '--check', '--json']);
  expect(merged).toMatchObject({ code: 0 });
  const told = merged.stdout.trim().split('\n').map((line) => JSON.parse(line));
  const [report, check] = ['merged', 'check'].map((kind) => told.find(({ type }) => type === kind));
  expect(report).toMatchObject({ out: 'merged', dtype: 'f32', baseDtype: 'F32', tokenizer: 'copied', merged: 21 });
  expect(check).toMatchObject({ sameTokens: true });
  // In F32 all that differs is the order of sums.
  expect(check.off).toBeLessThan(1e-4 * check.moved);
  const asked = ['--prompt', 'Hi', '--temperature', '0', '--max-new-tokens', '8', '--variant', 'direct'];
  expect(await command(['generate', '--model', 'merged', ...asked])).toMatchObject({ code: 0, stdout: 'Ahoy!\n' });

  const both = await command(['train', ...INPUTS, '--steps', '1', '--out', 'short', '--merged', 'whole', '--max-shard-bytes', '100000']);
  expect(both).toMatchObject({ code: 0, stdout: 'short\nwhole\n' });
  const { weight_map } = JSON.parse(await readFile(`${APP}/whole/model.safetensors.index.json`, 'utf8'));
  for (const name of new Set<string>(Object.values(weight_map))) expect((await stat(`${APP}/whole/${name}`)).size).toBeGreaterThan(0);
});
