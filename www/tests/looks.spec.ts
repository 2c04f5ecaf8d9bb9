/** The page at a phone's width, in light and dark, and by keyboard alone. */

import { CHATS, expect, test } from './studio.js';

for (const colorScheme of ['light', 'dark'] as const) {
  test(`nothing overflows 375 pixels, and text stands out, in ${colorScheme}`, async ({ studio, page }) => {
    await page.setViewportSize({ width: 375, height: 800 });
    await page.emulateMedia({ colorScheme });
    await studio.open();
    await studio.train(3);
    await expect(studio.get('#train-status')).toContainText('Done');
    await studio.unfold();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    expect(width).toBe(375);

    const faint = await page.evaluate(() => {
      // Relative luminance and contrast as WCAG 2 defines them, against the nearest painted ground.
      const channels = (colour: string) => (colour.match(/[\d.]+/g) ?? []).map(Number);
      const luminance = (colour: string) => {
        const [r = 0, g = 0, b = 0] = channels(colour).map((value) => {
          const part = value / 255;
          return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (element: Element | null): string => {
        if (!element) return 'rgb(255, 255, 255)';
        const colour = getComputedStyle(element).backgroundColor;
        return channels(colour)[3] === 0 ? ground(element.parentElement) : colour;
      };
      const texts = [...document.querySelectorAll('h1, h2, h3, p, dt, dd, label, legend, summary, mark, td, th, button')];
      return texts
        .filter((element) => element.checkVisibility() && !element.matches(':disabled') && element.textContent?.trim())
        .map((element) => {
          const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
          return { text: element.textContent?.trim().slice(0, 40), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
        })
        .filter(({ ratio }) => ratio < 4.5);
    });
    expect(faint).toEqual([]);
  });
}

test('light and dark differ', async ({ studio, page }) => {
  const grounds: string[] = [];
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    await studio.open();
    grounds.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
  }
  expect(grounds[0]).not.toBe(grounds[1]);
});

test('every control has a name', async ({ studio, page }) => {
  await studio.open();
  await studio.train(3);
  await expect(studio.get('#train-status')).toContainText('Done');
  await studio.unfold();
  for (const control of await page.locator('button:visible, input:visible, select:visible, textarea:visible').all()) {
    await expect(control).toHaveAccessibleName(/\w/);
  }
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
