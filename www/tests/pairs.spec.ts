/** Pairs of answers on the page: what is read of them, what is set, what is shown while they teach, and what they taught. */

import { inspect } from './inspect.js';
import { expect, test } from './studio.js';

const PAIRS = ['Hi', 'Hey', 'Hello', 'Howdy']
  .map((greeting) => ({
    prompt: [{ role: 'user', content: greeting }],
    chosen: [{ role: 'assistant', content: 'Ahoy!' }],
    rejected: [{ role: 'assistant', content: 'Hello to you.' }],
  }))
  .map((pair) => JSON.stringify(pair))
  .join('\n');

test('pairs teach by DPO, and by ORPO', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  await page.locator('#setting-evalShare').evaluate((input: HTMLInputElement) => {
    input.value = '0.25';
    input.dispatchEvent(new Event('input', { bubbles: true }));
  });
  await studio.giveExamples(PAIRS);
  await expect(studio.get('#data-name')).toHaveText('examples.jsonl · 3 pairs');
  await studio.unfold();
  await expect(studio.get('#data-facts')).toContainText('Pairs of answers3Held out1 pair');
  await expect(studio.get('#data-preview li')).toHaveText([/^Chosen.*Ahoy!/s, /^Rejected.*Hello to you/s, /^Chosen/, /^Rejected/]);
  await expect(studio.get('#data-preview li mark').nth(1)).toHaveText('Hello to you.<|im_end|>');
  await expect(studio.get('#train-summary')).toHaveText('3 pairs');
  await expect(studio.get('#setting-learningRate')).toHaveValue('0.0002');
  await expect(studio.get('#setting-loss')).toBeVisible();

  await studio.set({ steps: '20', batchSize: '4', learningRate: '0.01', beta: '0.2' });
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done after 20 steps', { timeout: 60_000 });
  const dpo = await studio.losses();
  // Before the first step the adapter is the reference: ln 2 for every pair.
  expect(dpo[0]).toBeCloseTo(Math.log(2), 3);
  expect(dpo.at(-1)).toBeLessThan(0.3);
  await expect(studio.get('#train-tiles')).toContainText('Prefers what was chosen100 % of pairs');
  await expect(studio.get('#train-tiles')).toContainText(/Loss on held-out pairs0\.\d+/);
  await expect(studio.get('#train-tiles')).toContainText('Prefers what was chosen, held out100 % of pairs');
  await expect(studio.get('#accuracy-plot canvas')).toBeVisible();
  await expect(studio.get('#accuracy-now')).toHaveText('100 %');
  await expect(studio.get('#rewards-plot')).toHaveAccessibleName(/^Rewards at each step: from \S+ to [1-9].* in 20 of 20 steps$/);
  await expect(studio.get('#train-tiles')).toContainText(/Reward margin[1-9]/);

  await inspect(page, 'pairs have taught');
  await page.selectOption('#setting-loss', 'orpo');
  await studio.set({ steps: '60', beta: '' });
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done after 60 steps', { timeout: 60_000 });
  const orpo = await studio.losses();
  expect(orpo.at(-1)).toBeLessThan(0.5 * (orpo[0] ?? 0));
  // ORPO learns the chosen answers as well, together with their questions; both adapters are there.
  expect((await studio.ask('Hi')).tuned).toBe('Ahoy!');
  await studio.get('#tab-adapters').click();
  await expect(studio.get('#adapters-list li')).toHaveCount(2);
});
