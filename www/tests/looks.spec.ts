/** The page in light and dark, and by keyboard alone; `inspect` looks at its states at every width. */

import { CHATS, expect, test } from './studio.js';

test('light and dark differ', async ({ studio, page }) => {
  const grounds: string[] = [];
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    await studio.open();
    grounds.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
  }
  expect(grounds[0]).not.toBe(grounds[1]);
});

test('the whole way by keyboard', async ({ studio, page }) => {
  await studio.open();
  const tabTo = async (selector: string) => {
    for (let presses = 0; presses < 90; presses++) {
      if (await studio.get(selector).evaluate((element) => element === document.activeElement)) return;
      await page.keyboard.press('Tab');
    }
    throw new Error(`90 presses of Tab do not reach ${selector}`);
  };

  await tabTo('#model-more > summary');
  await page.keyboard.press('Enter');
  await tabTo('#model-folder-button');
  const chooser = page.waitForEvent('filechooser');
  await page.keyboard.press('Enter');
  await chooser;
  await studio.loadModel();

  await tabTo('#data-own > summary');
  await page.keyboard.press('Space');
  await tabTo('#data-paste-button');
  await page.keyboard.press('Enter');
  await expect(studio.get('#data-text')).toBeFocused();
  await page.keyboard.insertText(CHATS);
  await tabTo('#data-paste button');
  await page.keyboard.press('Space');
  await expect(studio.get('#data-ready')).toBeVisible();

  await tabTo('#settings > summary');
  await page.keyboard.press('Space');
  await tabTo('#setting-steps');
  await page.keyboard.press('Control+a');
  await page.keyboard.type('3');
  // Enter in a field starts, as in any form; the focus goes to what can be done next.
  await page.keyboard.press('Enter');
  await expect(studio.get('#train-status')).toContainText('Done after 3 steps');
  await expect(studio.get('#announcer')).toContainText('compare');

  await tabTo('#prompt');
  await page.keyboard.press('Enter');
  await expect(studio.answer('tuned')).not.toBeEmpty();
  await expect(studio.get('#compare-ask')).toBeVisible();
  await tabTo('#strength');
  await page.keyboard.press('ArrowLeft');
  await expect(studio.get('#strength-value')).toHaveText('95 %');

  await tabTo('#tab-chat');
  await page.keyboard.press('End');
  await expect(studio.get('#tab-export')).toBeFocused();
  await tabTo('#keep-download');
  const download = page.waitForEvent('download');
  await page.keyboard.press('Enter');
  await download;
});
