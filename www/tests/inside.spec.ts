/** What was learned can be looked at, and made smaller. */

import { CHATS, expect, test } from './studio.js';

test('an adapter is looked into, and a smaller one takes its place', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  await studio.giveExamples(CHATS);
  await expect(studio.get('#data-ready')).toBeVisible();
  await studio.set({ steps: '20', learningRate: '0.01', r: '4', evalShare: '0.25' });
  await studio.unfold();
  await page.fill('#setting-samplePrompts', 'Hi');
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done after 20 steps', { timeout: 120_000 });
  await expect(studio.get('#train-samples-list li')).toHaveCount(10);
  await expect(studio.get('#train-samples-list li').last()).toContainText('Step 20: Hi');

  await studio.get('#tab-inside').click();
  await studio.get('#inside-look').click();
  await expect(studio.get('#inside-words')).toContainText('Most has changed in model.layers.');
  const modules = await studio.get('#inside-picture rect').count();
  expect(modules % 7).toBe(0);
  await expect(studio.get('#inside-rows tr')).toHaveCount(modules);
  await expect(studio.get('#inside-module rect')).toHaveCount(4);
  await studio.get('#inside-picture rect').last().click();
  await expect(studio.get('#inside-module figcaption')).toContainText('directions');

  await page.fill('#inside-rank', '0');
  await studio.get('#inside-shrink').click();
  await expect(studio.get('#inside-error')).toContainText('r is 0');
  await page.fill('#inside-rank', '1');
  await studio.get('#inside-shrink').click();
  await expect(studio.get('#inside-smaller')).toContainText(/numbers, \d+\.\d % off/);
  await studio.get('#inside-use').click();
  await expect(studio.get('#inside-smaller')).toContainText(/held-out examples: \d+\.\d+ before, \d+\.\d+ now/);
  await expect(studio.get('#keep-facts')).toContainText('1, alpha');
});
