/** Once it has been loaded the page needs no network: neither it nor a model that is kept. */

import { HubServer } from './hub-server.js';
import { expect, test, tinyModel } from './studio.js';

test.use({ serviceWorkers: 'allow' });

test('loaded once, then trained without a network', async ({ studio, page, context }) => {
  const hub = await HubServer.start();
  const repo = 'HuggingFaceTB/SmolLM2-135M-Instruct';
  hub.add(repo, await tinyModel(), { license: 'apache-2.0' });
  await page.goto(`/?hub=${hub.endpoint}`);
  await expect(studio.get('#device')).toHaveAttribute('data-state', 'software');
  await studio.showModels();
  await studio.get('#hub > summary').click();
  await page.fill('#hub-name', repo);
  await page.keyboard.press('Enter');
  await studio.get('#hub-download').click();
  await expect(studio.get('#model-ready')).toBeVisible();
  // Ready once every file of the build is kept.
  await page.evaluate(async () => void (await navigator.serviceWorker.ready));
  hub.stop();

  await context.setOffline(true);
  await page.goto('/');
  await expect(studio.get('#device')).toHaveAttribute('data-state', 'software');
  expect(await page.evaluate(() => navigator.serviceWorker.controller !== null)).toBe(true);
  await page.getByRole('button', { name: `Use ${repo}` }).click();
  await expect(studio.get('#model-ready')).toBeVisible();
  await studio.get('[data-sample=pirate]').click();
  await expect(studio.get('#data-ready')).toBeVisible();
  await studio.set({ steps: '3' });
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done after 3 steps');
  expect(await fetchFails(page)).toBe(true);
});

test('the page says how it can be installed', async ({ page, baseURL }) => {
  await page.goto('/');
  const href = await page.getAttribute('link[rel=manifest]', 'href');
  const response = await page.request.get(new URL(href ?? '', baseURL).href);
  const manifest = (await response.json()) as { icons: { src: string; sizes: string }[]; display: string };
  expect(manifest.display).toBe('standalone');
  for (const { src } of manifest.icons) expect((await page.request.get(new URL(src, baseURL).href)).ok()).toBe(true);
});

/** Whether there is really no network. */
function fetchFails(page: import('@playwright/test').Page): Promise<boolean> {
  return page.evaluate(() => fetch('/no-such-file').then(() => false, () => true));
}
