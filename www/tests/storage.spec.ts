/** Storage that is full, gone or refused, tabs that are hidden, and two of them at once: said, and nothing is lost. */

import { readFile } from 'node:fs/promises';
import type { CDPSession, Page } from '@playwright/test';
import { unzipSync } from 'fflate';
import { Studio, expect, test } from './studio.js';

async function trainingOf(studio: Studio, steps = 5000): Promise<void> {
  await studio.train(steps);
  await expect(studio.get('#train-steps tr').nth(11)).toBeAttached({ timeout: 90_000 });
}

function devtools(page: Page): Promise<CDPSession> {
  return page.context().newCDPSession(page);
}

/** The step that the newest run is kept at. */
async function keptStep(page: Page): Promise<number> {
  return page.evaluate(async () => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('web-lora-runs');
    for await (const run of folder.values()) {
      const file = await (await (run as FileSystemDirectoryHandle).getFileHandle('run.json')).getFile();
      return JSON.parse(await file.text()).info.step;
    }
  });
}

test('storage that is full: training goes on, its adapter is offered, and it is kept once there is room', async ({ studio, page, baseURL }) => {
  const browser = await devtools(page);
  const origin = baseURL ?? '';
  await studio.open();
  await browser.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 1000 });
  await trainingOf(studio);
  await expect(studio.get('#train-unsaved')).toContainText(/not being saved: .*(full|missing)\. Training goes on/);
  const files = unzipSync(await readFile(await studio.download('#train-unsaved-download')));
  expect(Object.keys(files)).toContain('adapter_model.safetensors');

  await browser.send('Storage.overrideQuotaForOrigin', { origin });
  await studio.get('#train-stop').click();
  await expect(studio.get('#train-status')).toContainText('Stopped after');
  await expect(studio.get('#train-unsaved')).toBeHidden();
  await studio.get('#runs-open').click();
  await expect(studio.get('#runs-list li')).toContainText('stopped');
  await expect(studio.get('#runs [data-note=storage]')).toContainText(/in use, room for .* more\. The browser (may clear|keeps)/);

  // All of it taken away, as browsers do with what was not used for long.
  await page.getByRole('button', { name: /^Go on/ }).first().waitFor();
  await browser.send('Storage.clearDataForOrigin', { origin, storageTypes: 'all' });
  await page.getByRole('button', { name: /^Go on/ }).first().click();
  await expect(studio.get('#train-error')).toContainText('no longer kept in this browser');
  await page.reload();
  await expect(studio.get('#places')).toBeHidden();
});

test('no storage at all: it is said beforehand, and what is trained can be downloaded', async ({ studio, page }) => {
  const none = `StorageManager.prototype.getDirectory = async () => { throw new DOMException('refused', 'SecurityError') }`;
  await page.addInitScript(none);
  await studio.openWith(none);
  await expect(studio.get('#storage-none')).toContainText('gives the page no storage');
  await studio.train(3);
  await expect(studio.get('#train-status')).toContainText('Done', { timeout: 90_000 });
  await expect(studio.get('#train-unsaved')).toContainText('no storage to keep runs in');
  const files = unzipSync(await readFile(await studio.download('#keep-download')));
  expect(Object.keys(files)).toContain('adapter_model.safetensors');
});

test('a run is one tab’s, by name, until that tab is gone', async ({ studio, page }) => {
  await studio.open();
  await trainingOf(studio);
  const other = new Studio(await page.context().newPage(), async () => '');
  await other.page.goto('/');
  await expect(other.get('#device')).not.toHaveAttribute('data-state', 'waiting');
  // It is under way, not cut off: nobody is asked to go on with it.
  await expect(other.get('#places')).toBeVisible();
  await expect(other.get('#runs-cut')).toBeHidden();
  await other.get('#runs-open').click();
  await expect(other.get('#runs-list li')).toContainText('examples on');
  await expect(other.get('#runs-list li')).toContainText('under way');
  await expect(other.page.getByRole('button', { name: /^Go on/ })).toHaveCount(0);
  await other.page.getByRole('button', { name: /^Delete/ }).click();
  await expect(other.get('#runs-error')).toContainText(/The run examples on .* is under way, here or in another tab/);

  // Its process dies, as when memory runs out.
  const dead = page.waitForEvent('crash');
  // Never answered, by one that is dead.
  void (await devtools(page)).send('Page.crash').catch(() => undefined);
  await dead;
  await expect(async () => {
    await other.page.reload();
    await expect(other.get('#runs-cut-text')).toContainText('A training was cut off: examples on', { timeout: 2000 });
  }).toPass();
  await other.page.close();
});

test('a tab that is hidden or frozen: saved at once, and gone on with', async ({ studio, page }) => {
  await studio.open();
  await trainingOf(studio);
  const steps = () => studio.get('#train-steps tr').count();
  // By the clock the next is due 20 s after the first.
  const before = await keptStep(page);
  await page.evaluate(() => {
    Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await expect(async () => expect(await keptStep(page)).toBeGreaterThan(Math.max(before, 5))).toPass({ timeout: 15_000 });
  const hidden = await steps();
  await expect(async () => expect(await steps()).toBeGreaterThan(hidden)).toPass();

  // A page that gets no turn at all takes none from the worker: no step waits for its timers or frames.
  const told = await steps();
  await page.evaluate(() => {
    for (const end = performance.now() + 3000; performance.now() < end; );
  });
  await expect(async () => expect(await steps()).toBeGreaterThan(told + 1)).toPass({ timeout: 1000 });

  // What browsers tell a page that they freeze, and thaw. Under the tests' control none is ever frozen in earnest.
  const kept = await keptStep(page);
  await page.evaluate(() => document.dispatchEvent(new Event('freeze')));
  await expect(async () => expect(await keptStep(page)).toBeGreaterThan(kept)).toPass({ timeout: 15_000 });
  await page.evaluate(() => document.dispatchEvent(new Event('resume')));
  await expect(studio.get('#train-paused')).toContainText(/had paused this tab for \d+ s/);
  expect((await studio.losses()).every(Number.isFinite)).toBe(true);
  await studio.get('#train-stop').click();
  await expect(studio.get('#train-status')).toContainText('Stopped after');
});
