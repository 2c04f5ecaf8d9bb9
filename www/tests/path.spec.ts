/** The first-time path, state by state: nothing overflows or is hard to use, and what is drawn is right. */

import { inspect } from './inspect.js';
import { CHATS, expect, test } from './studio.js';

test('every state of the path can be used by anyone', async ({ studio, page }) => {
  test.slow();
  await studio.open();
  // One thing to press: what this server has, or the Hub.
  await expect(studio.get('#model-default')).toBeVisible();
  await expect(page.locator('button.primary:visible')).toHaveText([/Use this model|Download it/]);
  await inspect(page, 'a model is to be chosen');

  await studio.loadModel();
  await expect(studio.get('#data-samples button')).toHaveCount(4);
  await inspect(page, 'examples are to be chosen');

  await studio.get('[data-sample=inbox]').click();
  await expect(studio.get('#data-ready')).toBeVisible();
  await expect(studio.get('#data-expect')).toContainText('one word');
  await expect(page.locator('button.primary:visible')).toHaveText(['Start training']);
  await inspect(page, 'ready to train');

  await studio.set({ steps: '30', evalShare: '0.2' });
  await page.keyboard.press('Enter');
  await expect(studio.get('#train-status')).toContainText(/Step \d|Done/);
  await inspect(page, 'training');
  await expect(studio.get('#train-status')).toContainText('Done after 30 steps');
  await expect(studio.get('#train-tiles')).toContainText('Loss on held-out examples');
  await expect(studio.get('#train-tiles')).toContainText(/Memory[\d.]+ [kMG]B/);

  await page.getByRole('link', { name: 'Talk to it' }).click();
  await expect(studio.get('#after')).toBeFocused();
  await studio.get('#suggestions button').first().click();
  await expect(studio.answer('tuned')).not.toBeEmpty();
  await expect(studio.get('#compare-ask')).toBeVisible();
  await inspect(page, 'talking');
  for (const tab of ['adapters', 'inside', 'export']) {
    await studio.get(`#tab-${tab}`).click();
    await inspect(page, tab);
  }
  await studio.unfold();
  await inspect(page, 'all folds open');
});

test('LoRA is drawn with the numbers of its rank, and terms are explained', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  await studio.giveExamples(CHATS);
  await studio.get('#lora > summary').click();
  await studio.set({ r: '8' });
  const picture = studio.get('#lora-picture');
  await expect(picture).toContainText('1,152 numbers are trained in place of 5,184: 78 % fewer.');
  await expect(picture).toContainText('4,608 of 32,768, 86 % fewer');
  await expect(picture.getByRole('img')).toHaveAccessibleName('W, 72 by 72, plus B, 72 by 8, times A, 8 by 72');
  await studio.set({ r: '4' });
  await expect(picture).toContainText('576 numbers');
  await studio.set({ r: '72' });
  await expect(picture).toContainText('no fewer');
  await studio.set({ r: 'many' });
  await expect(picture).toContainText('whole number');

  const what = page.getByRole('button', { name: 'What is learning rate?' }).first();
  await what.click();
  await expect(what).toHaveAttribute('aria-expanded', 'true');
  await expect(studio.get('#glossary')).toBeVisible();
  await expect(studio.get('#glossary')).toContainText('How far one step moves');
  await page.keyboard.press('Escape');
  await expect(studio.get('#glossary')).toBeHidden();
  await expect(what).toHaveAttribute('aria-expanded', 'false');
  await what.click();
  await what.click();
  await expect(studio.get('#glossary')).toBeHidden();
});

test('a sample suggests settings, and what a person chose stays', async ({ studio }) => {
  await studio.open();
  await studio.loadModel();
  await studio.get('[data-sample=keeper]').click();
  await expect(studio.get('#setting-steps')).toHaveValue('24');
  await expect(studio.get('#suggestions button').first()).toHaveText('What is your job?');
  await studio.get('#data-change').click();
  await studio.get('[data-sample=pirate]').click();
  await expect(studio.get('#setting-steps')).toHaveValue('12');
  await studio.set({ steps: '7' });
  await studio.get('#data-change').click();
  await studio.get('[data-sample=keeper]').click();
  await expect(studio.get('#setting-steps')).toHaveValue('7');
});

test('a conversation goes on, and can be begun anew', async ({ studio, page }) => {
  await studio.open();
  await studio.train(100);
  await expect(studio.get('#train-status')).toContainText('Done');
  const first = await studio.ask('Hi');
  expect(first.tuned).toBe('Ahoy!');
  await studio.ask('Hello');
  await expect(studio.get('.turn')).toHaveCount(2);
  await page.fill('#strength', '2');
  await expect(studio.get('#strength-value')).toHaveText('200 %');
  await page.getByRole('button', { name: 'New conversation' }).click();
  await expect(studio.get('.turn')).toHaveCount(0);
  await page.fill('#strength', '1');
  // What was said before is forgotten: the same question has the same answer as at first.
  expect(await studio.ask('Hi')).toEqual(first);
  // Said again with how sure it was: the same words.
  await page.getByRole('button', { name: 'New conversation' }).click();
  await studio.unfold();
  await page.check('#certainty');
  expect(await studio.ask('Hi')).toEqual(first);
  await expect(studio.get('.turn:last-child .tuned p.quiet')).toContainText(/Least sure of “.+” at \d+ %/);
});

test('the memory a training takes is foreseen, and what another setting would change', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  await studio.giveExamples(CHATS);
  await studio.get('#memory-plan > summary').click();
  const total = studio.get('#memory-plan-picture figcaption');
  await expect(total).toHaveText(/^[\d.]+ [kM]B of GPU memory in all$/);
  const rows = studio.get('#memory-plan-rows tr');
  // Ranks are kept in eights.
  await expect(rows).toHaveText([/^Rank 16.*\+/, /^Rank 4.*none$/, /^Half the length.*−/, /^Moments in 8 bits.*−/, /^Only q_proj and v_proj.*−/]);
  const rank16 = (await rows.first().locator('td').nth(1).textContent()) ?? '';
  await studio.set({ r: '16' });
  await expect(total).toHaveText(`${rank16} of GPU memory in all`);
  await studio.unfold();
  await page.selectOption('#setting-optim', 'adamw_8bit');
  await expect(rows.nth(3)).toHaveText(/^Moments in 32 bits.*\+/);
  // What is foreseen is what it takes, but for passes that need not be so long.
  const foreseen = parseFloat((await total.textContent()) ?? '');
  await studio.set({ steps: '1' });
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done');
  const taken = parseFloat((await studio.get('#memory-picture figcaption').textContent()) ?? '');
  expect(taken).toBeLessThanOrEqual(foreseen);
  expect(taken).toBeGreaterThan(0.8 * foreseen);
});
