/** Runs on the page: one that is cut off goes on, and those that are kept can be compared, renamed, repeated and deleted. */

import { readFile } from 'node:fs/promises';
import { unzipSync } from 'fflate';
import { expect, test } from './studio.js';

test('a run that was cut off goes on, is compared, renamed, repeated, taken out and deleted', async ({ studio, page }) => {
  await studio.open();
  await expect(studio.get('#places')).toBeHidden();
  await studio.train(80);
  await expect(studio.get('#train-status')).toContainText(/Step \d+ of 80 · loss/);
  await page.reload();
  await expect(studio.get('#device')).toHaveAttribute('data-state', 'software');
  await expect(studio.get('#runs-cut-text')).toContainText('A training was cut off: examples on');

  // The model was a folder of this device: it has to be chosen again, and the page says so.
  await studio.get('#runs-cut-resume').click();
  await expect(studio.get('#train-error')).toContainText('choose them again');
  await studio.loadModel();
  await studio.get('#runs-cut-resume').click();
  await expect(studio.get('#train-status')).toContainText('Done after 80 steps');
  await expect(studio.get('#runs-cut')).toBeHidden();
  expect((await studio.ask('Hi')).tuned).toBe('Ahoy!');

  await studio.get('#runs-open').click();
  await expect(studio.get('#runs-list li')).toHaveCount(1);
  await expect(studio.get('#runs-list li')).toContainText('done, 80 of 80 steps');
  await studio.get('#runs-list input').check();
  await expect(studio.get('#runs-plot canvas')).toBeVisible();
  const zip = unzipSync(await readFile(await studio.download('#runs-list button:has-text("Download all")')));
  expect(Object.keys(zip)).toEqual(expect.arrayContaining(['run.json', 'metrics.jsonl', 'adapter_model.safetensors', 'data-0']));
  const config = JSON.parse(await readFile(await studio.download('#runs-list button:has-text("settings")'), 'utf8'));
  expect(config.training).toMatchObject({ steps: 80, learningRate: 0.01 });

  await page.getByRole('button', { name: /^Rename: examples on/ }).click();
  await expect(page.getByRole('textbox', { name: /^New name of examples on/ })).toBeFocused();
  await page.keyboard.press('Escape');
  await expect(studio.get('#runs-list li')).toContainText('examples on');
  await page.getByRole('button', { name: /^Rename/ }).click();
  await page.keyboard.type('Ahoy for short');
  await page.keyboard.press('Enter');
  // The list is what the storage says.
  await expect(studio.get('#runs-list label')).toHaveText('Ahoy for short');

  await page.getByRole('button', { name: 'Repeat' }).click();
  await expect(studio.get('#runs')).toBeHidden();
  await expect(studio.get('#setting-steps')).toHaveValue('80');
  await studio.get('#runs-open').click();
  await page.getByRole('button', { name: 'Delete' }).click();
  await expect(studio.get('#places')).toBeHidden();
});
