/** Several adapters on one model: kept under names, switched, compared, renamed, added up, taken out, brought in. */

import { readFile } from 'node:fs/promises';
import { inspect } from './inspect.js';
import { expect, test } from './studio.js';

test('adapters are switched, compared, renamed, added up, taken out and brought in', async ({ studio, page }) => {
  await studio.open();
  await studio.train(60);
  await expect(studio.get('#train-status')).toContainText('Done after 60 steps');
  expect((await studio.ask('Hi')).tuned).toBe('Ahoy!');
  await expect(studio.get('.turn:last-child h3')).toHaveText(['Before', 'Afterexamples']);
  await expect(studio.get('#compare-who')).toBeHidden();

  // Another training makes another adapter, and the one before stays.
  await studio.set({ steps: '2', learningRate: '0.000001' });
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done after 2 steps');
  await studio.get('#tab-adapters').click();
  const rows = studio.get('#adapters-list li');
  await expect(rows).toHaveText([/^examplesrank 8, alpha 8 · .* 60 steps/, /^examples 2 in userank 8, alpha 8 · .* 2 steps/]);

  await page.getByRole('button', { name: 'Use: examples', exact: true }).click();
  await expect(studio.get('#adapters-said')).toContainText(/^examples is in use. The switch took \d+ ms.$/);
  await expect(rows.first()).toContainText('in use');
  await page.getByRole('button', { name: 'Rename: examples', exact: true }).click();
  await studio.get('#combine > summary').click();
  await inspect(page, 'one of two adapters gets another name');
  await page.getByRole('textbox', { name: 'New name of examples' }).selectText();
  await page.keyboard.type('ahoy');
  await page.keyboard.press('Enter');
  await expect(rows).toHaveText([/^ahoy in use/, /^examples 2/]);
  await expect(page.getByRole('button', { name: 'Rename: ahoy' })).toBeFocused();
  await page.getByRole('button', { name: 'Rename: ahoy' }).click();
  await page.keyboard.type('examples 2');
  await page.keyboard.press('Enter');
  await expect(studio.get('#adapters-error')).toContainText('a new name');

  // Any two can be compared, and each answer says whose it is.
  await studio.get('#tab-chat').click();
  await expect(studio.get('#compare-tuned')).toHaveValue('ahoy');
  await page.selectOption('#compare-base', 'examples 2');
  const two = await studio.ask('Hi');
  expect(two.tuned).toBe('Ahoy!');
  expect(two.base).not.toBe('Ahoy!');
  await expect(studio.get('.turn:last-child h3')).toHaveText(['examples 2', 'ahoy']);
  await inspect(page, 'two adapters side by side');
  await page.selectOption('#compare-tuned', 'examples 2');
  await expect(studio.get('#compare-base')).toHaveValue('');
  await page.getByRole('button', { name: 'New conversation' }).click();
  expect((await studio.ask('Hi')).tuned).toBe(two.base);
  await page.getByRole('button', { name: 'New conversation' }).click();

  // What has learned next to nothing changes nothing in a sum.
  await studio.get('#tab-adapters').click();
  await page.selectOption('#combine-first', 'ahoy');
  await page.selectOption('#combine-second', 'examples 2');
  await page.fill('#combine-second-weight', 'much');
  await page.getByRole('button', { name: 'Add them up' }).click();
  await expect(studio.get('#adapters-error')).toContainText('weight');
  await page.fill('#combine-second-weight', '0.5');
  await page.getByRole('button', { name: 'Add them up' }).click();
  await expect(studio.get('#adapters-said')).toContainText(/^ahoy \+ 0.5 examples 2 is made and in use: .* exactly the sum.$/);
  await expect(rows.filter({ hasText: 'in use' })).toContainText('rank 16');
  await page.selectOption('#combine-how', 'svd');
  await page.getByRole('button', { name: 'Add them up' }).click();
  await expect(studio.get('#adapters-said')).toContainText(/\d+\.\d % off the sum/);
  await expect(rows.filter({ hasText: 'in use' })).toContainText('rank 8');
  expect((await studio.ask('Hi')).tuned).toBe('Ahoy!');
  await page.getByRole('button', { name: 'New conversation' }).click();
  await studio.get('#tab-export').click();
  await expect(studio.get('#keep-name')).toHaveValue('ahoy-0.5-examples-2-2-model');

  await studio.get('#tab-adapters').click();
  const zip = await studio.download('button[aria-label="Download: ahoy"]');
  for (const name of ['ahoy + 0.5 examples 2', 'ahoy + 0.5 examples 2 2', 'ahoy']) {
    await page.getByRole('button', { name: `Delete: ${name}`, exact: true }).click();
    await expect(page.getByRole('button', { name: `Delete: ${name}`, exact: true })).toHaveCount(0);
  }
  await expect(rows).toHaveText([/^examples 2 in use/]);
  await expect(studio.get('#combine')).toBeHidden();
  await page.setInputFiles('#adapters-file', { name: 'from before.zip', mimeType: 'application/zip', buffer: await readFile(zip) });
  await expect(studio.get('#adapters-said')).toHaveText('from before is added, and in use.');
  expect((await studio.ask('Hi')).tuned).toBe('Ahoy!');
});
