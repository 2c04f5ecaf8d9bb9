/** What every state of the page has to be: usable by anyone, and no wider than its window. */

import { AxeBuilder } from '@axe-core/playwright';
import type { Page } from '@playwright/test';
import { expect } from './studio.js';

const LOOKS = [375, 1280].flatMap((width) => (['light', 'dark'] as const).map((colorScheme) => ({ width, colorScheme })));
/** axe takes two seconds for one look: every width and every scheme once, and in `make test-long` each with each. */
const ALL = process.env.LOOKS === 'all';

/** No serious violation that axe knows, and no overflow, at a phone's and a desk's width, in light and dark. */
export async function inspect(page: Page, state: string): Promise<void> {
  for (const { width, colorScheme } of LOOKS) {
    await page.setViewportSize({ width, height: 800 });
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    const name = `${state}, ${width} px, ${colorScheme}`;
    // Curves follow the window in their own time.
    await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth), { message: name, timeout: 3000 }).toBe(width);
    if (!ALL && (width === 375) !== (colorScheme === 'light')) continue;
    const { violations } = await new AxeBuilder({ page }).analyze();
    const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
    expect(grave.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`), name).toEqual([]);
  }
}
