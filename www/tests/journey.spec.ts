/** What people come for: from a model and examples to an adapter in a zip, and back from the zip. */

import { readFile } from 'node:fs/promises';
import { unzipSync } from 'fflate';
import { CHROMIUM, CHROMIUM_FLAGS } from '../chromium.mjs';
import { CHATS, expect, test } from './studio.js';

// As people have it, where the other tests spare SwiftShader a part of its compiling.
test.use({ launchOptions: { executablePath: CHROMIUM, args: CHROMIUM_FLAGS } });

test('trains, compares, downloads, and opens the download again', async ({ studio, page }) => {
  await studio.open();
  await expect(studio.get('#device')).toHaveAttribute('data-state', 'software');
  await expect(studio.get('#device-note')).toContainText('slower');

  await studio.train(100);
  await expect(studio.get('#data-preview mark').first()).toHaveText('Ahoy!<|im_end|>');
  await expect(studio.get('#train-status')).toContainText(/Step \d+ of 100 · loss .* tokens\/s/);
  await expect(studio.get('#train-status')).toContainText('Done after 100 steps');
  await expect(studio.get('#loss-plot canvas')).toBeVisible();
  const losses = await studio.losses();
  expect(losses).toHaveLength(100);
  expect(losses.at(-1)).toBeLessThan(0.5 * (losses[0] ?? 0));

  const before = await studio.ask('Hi');
  expect(before.tuned).toBe('Ahoy!');
  expect(before.base).not.toBe(before.tuned);

  await studio.get('#tab-export').click();
  await page.fill('#keep-name', 'Ahoy there');
  const zip = await studio.download('#keep-download');
  const files = unzipSync(await readFile(zip));
  expect(Object.keys(files).sort()).toEqual(['README.md', 'adapter_config.json', 'adapter_model.safetensors']);
  const config = JSON.parse(Buffer.from(files['adapter_config.json'] ?? []).toString());
  expect(config).toMatchObject({ peft_type: 'LORA', r: 8, lora_alpha: 8, task_type: 'CAUSAL_LM' });
  const weights = Buffer.from(files['adapter_model.safetensors'] ?? []);
  const header = weights.subarray(8, 8 + Number(weights.readBigUInt64LE(0))).toString();
  expect(header).toContain('base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight');
  expect(Buffer.from(files['README.md'] ?? []).toString()).toContain('# Ahoy there');

  await page.selectOption('#keep-format', 'gguf');
  expect((await readFile(await studio.download('#keep-download'))).subarray(0, 4).toString()).toBe('GGUF');
  await page.selectOption('#keep-format', 'mlx');
  const mlx = unzipSync(await readFile(await studio.download('#keep-download')));
  expect(Object.keys(mlx).sort()).toEqual(['adapter_config.json', 'adapters.safetensors']);
  const script = await readFile(await studio.download('#keep-script'), 'utf8');
  expect(script).toContain('max_steps=100,');
  expect(script).toContain('DATA = [["examples.jsonl", "jsonl"]]');

  await studio.open();
  await studio.loadModel();
  await page.setInputFiles('#keep-zip', { name: 'a.zip', mimeType: 'application/zip', buffer: await readFile(zip) });
  await expect(studio.get('#after')).toBeVisible();
  expect(await studio.ask('Hi')).toEqual(before);
});

test('the strength slider goes from the base to the adapter', async ({ studio, page }) => {
  await studio.open();
  await studio.train(10);
  await expect(studio.get('#train-status')).toContainText('Done');
  await page.fill('#strength', '0');
  await expect(studio.get('#strength-value')).toHaveText('0 %');
  const { base, tuned } = await studio.ask('Hi');
  expect(tuned).toBe(base);
});

test('stopping keeps what was learned, and training goes on from there', async ({ studio, page }) => {
  await studio.open();
  await studio.train(5000);
  await expect(studio.get('#train-steps tr').nth(3)).toBeAttached();
  await studio.get('#train-stop').click();
  await expect(studio.get('#train-status')).toContainText('Stopped after');
  await expect(studio.get('#after')).toBeVisible();
  const first = (await studio.losses())[0] ?? 0;

  await studio.set({ steps: '4' });
  await page.check('#train-continue');
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done after 4 steps');
  expect((await studio.losses())[0]).toBeLessThan(first);
});

test('a step can be measured, and says where its time went', async ({ studio }) => {
  await studio.open();
  await studio.train(3);
  await expect(studio.get('#train-status')).toContainText('Done');
  await studio.get('#profile > summary').click();
  await studio.get('#profile-run').click();
  await expect(studio.get('#profile-status')).toContainText(/\d+ tokens in .* ms, by/);
  const rows = studio.get('#profile-ops tr');
  await expect(rows.filter({ hasText: 'backward mlp.down_proj' }).first()).toBeVisible();
  const shares = (await rows.locator('td:nth-child(2)').allTextContents()).map(parseFloat);
  expect(shares).toEqual(shares.toSorted((a, b) => b - a));
  // Each is rounded to a tenth.
  expect(Math.abs(shares.reduce((sum, share) => sum + share, 0) - 100)).toBeLessThan(0.05 * shares.length);
  await expect(studio.get('#train-start')).toBeEnabled();
});

test('the sample can be used and every example shows what is learned', async ({ studio }) => {
  await studio.open();
  await studio.loadModel();
  await studio.get('[data-sample=pirate]').click();
  await expect(studio.get('#data-name')).toHaveText('pirate.jsonl · 40 examples');
  await expect(studio.get('#data-facts')).toContainText('40');
  await expect(studio.get('#data-preview li').first()).toContainText('What is the capital of Italy?');
  await expect(studio.get('#data-preview li mark').first()).toHaveText('Arr, that be Rome, matey!<|im_end|>');
});

test('two trainings with one seed give the same bytes', async ({ studio }) => {
  const adapters: Buffer[] = [];
  for (let run = 0; run < 2; run++) {
    await studio.open();
    await studio.train(5);
    await expect(studio.get('#train-status')).toContainText('Done');
    const files = unzipSync(await readFile(await studio.download('#keep-download')));
    adapters.push(Buffer.from(files['adapter_model.safetensors'] ?? []));
  }
  expect(adapters[0]?.equals(adapters[1] ?? Buffer.of())).toBe(true);
});

test('on a software GPU the defaults are small, and what a person sets stays as set', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  await studio.giveExamples(CHATS);
  await expect(page.locator('#setting-steps')).toHaveValue('12');
  await studio.set({ steps: '60' });
  await studio.giveExamples(CHATS.slice(0, CHATS.lastIndexOf('\n')));
  await expect(studio.get('#train-summary')).toHaveText('3 examples');
  await expect(page.locator('#setting-steps')).toHaveValue('60');
  await expect(page.locator('#setting-batchSize')).toHaveValue('2');
});
