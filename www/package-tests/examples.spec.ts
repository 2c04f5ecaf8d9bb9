/** The worked examples of the package, as they are, beside the installed package. */

import { readFile, stat } from 'node:fs/promises';
import { expect, test } from '@playwright/test';
import { APP, install, installDawn, node, serve } from './installed.js';

let site: Awaited<ReturnType<typeof serve>>;

test.describe.configure({ mode: 'serial' });
test.beforeAll(async () => {
  await install();
  await installDawn();
  site = await serve(APP);
});
test.afterAll(() => site.close());
test.beforeEach(({ page }) => {
  page.on('pageerror', (error) => {
    throw error;
  });
});

test('a script in Node', async () => {
  const ran = await node(['node-script.mjs', 'model', 'data.jsonl', 'adapter']);
  expect(ran).toMatchObject({ code: 0, stderr: '' });
  expect(ran.stdout).toMatch(/^1\/30 9\.\d+\n[^]*\n30\/30 0\.0\d+\nAhoy!\n$/);
  expect((await stat(`${APP}/adapter/adapter_model.safetensors`)).size).toBeGreaterThan(100_000);
});

test('answer with an adapter that there is', async ({ page }) => {
  // That of the script, which ran in another place.
  await page.goto(`${site.url}answer-with-adapter.html`);
  await expect(page.locator('#tuned')).toHaveText('Ahoy!');
  await expect(page.locator('#base')).not.toContainText('Ahoy');
});

test('train an adapter and save it', async ({ page }) => {
  await page.goto(`${site.url}train-and-save.html`);
  await expect(page.locator('#save')).toBeVisible();
  await expect(page.locator('#log')).toHaveText(/step 30: loss 0\.0\d+\s*$/);
  const coming = page.waitForEvent('download');
  await page.locator('#save').click();
  const zip = await readFile(await (await coming).path());
  // The config lies in it uncompressed or not; the weights are stored, and those of the script.
  expect(zip.includes(await readFile(`${APP}/adapter/adapter_model.safetensors`))).toBe(true);
});

test('show progress, and let a person stop', async ({ page }) => {
  await page.goto(`${site.url}progress-and-stop.html`);
  await page.setInputFiles('#model', ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'].map((name) => `${APP}/model/${name}`));
  await expect(page.locator('#status')).toHaveText(/^loss \d/);
  await page.click('#stop');
  await expect(page.locator('#status')).toHaveText(/^cancelled after \d+ steps, adapter of \d+ bytes$/);
});

test('look at answers along the way', async ({ page }) => {
  await page.goto(`${site.url}evaluate-answers.html`);
  await expect(page).toHaveTitle('Done');
  const rows = page.locator('tbody tr');
  await expect(rows).toHaveCount(3);
  await expect(rows.last()).toHaveText(/4 of 4$/);
});
