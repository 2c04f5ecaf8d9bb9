/**
 * The page's main job without a person: drives it in headless Chromium and prints what it shows. Called by
 * `make demo`, which documents the variables. Ends with status 1 and the page's own message when anything fails.
 */

import { existsSync } from 'node:fs';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from '@playwright/test';
import { unzipSync } from 'fflate';
import { preview } from 'vite';
import { CHROMIUM, CHROMIUM_FLAGS } from '../chromium.mjs';

/** @typedef {import('@playwright/test').Page} Page */

/** Fields of the page's settings, by variable. */
const SETTINGS = { STEPS: 'steps', SEED: 'seed', LR: 'learningRate', RANK: 'r', ALPHA: 'loraAlpha' };
const OUT = variable('OUT') ?? 'out';
const POLL_MS = 200;
/** Round what is in a picture, in pixels. */
const MARGIN = 12;
/** A model by name, as the page takes it. */
const HUB_NAME = /^[\w.-]+\/[\w.-]+(@.+)?$/;

/** A failure that the page has told a person about. */
class PageError extends Error {}

/** @param {string} name */
function variable(name) {
  return process.env[name]?.trim() || undefined;
}

/** @param {string} label @param {string} text */
function say(label, text) {
  console.log(`${label.padEnd(12)}${text.replace(/\n/g, `\n${' '.repeat(12)}`)}`);
}

/**
 * Waits, however long it takes, for a selector to be visible, and meanwhile for the page to report a failure.
 * @param {Page} page @param {string} selector @param {() => Promise<void>} [meanwhile]
 */
async function until(page, selector, meanwhile = async () => undefined) {
  for (;;) {
    const ready = await page.locator(selector).isVisible();
    await meanwhile();
    const alerts = await page.locator('[role=alert]:visible, .field-error:visible').allInnerTexts();
    if (alerts.length > 0) throw new PageError(alerts[0]);
    if (ready) return;
    await page.waitForTimeout(POLL_MS);
  }
}

/** @param {Page} page @param {string} id */
async function facts(page, id) {
  const rows = await page.locator(`#${id} > div`).all();
  const texts = rows.map(async (row) => {
    // Of a fold that is closed there is no inner text.
    const [label, value] = [await row.locator('dt').textContent(), await row.locator('dd').textContent()];
    return `${label?.toLowerCase()} ${value}`;
  });
  return (await Promise.all(texts)).join(', ');
}

/** @param {Page} page */
async function chooseModel(page) {
  const model = variable('MODEL');
  if (!model) await page.click('#model-default-use');
  else if (!existsSync(model)) await chooseFromHub(page, model);
  else if ((await stat(model)).isDirectory()) await page.setInputFiles('#model-folder', model);
  else await page.setInputFiles('#model-file', model);
  await until(page, '#model-ready');
  say('model', `${await page.innerText('#model-name')}: ${await facts(page, 'model-facts')}`);
}

/** The first of its choices, as the page proposes it. @param {Page} page @param {string} name */
async function chooseFromHub(page, name) {
  for (const [fold, inside] of [['#model-more', '#hub'], ['#hub', '#hub-list']]) {
    if (!(await page.isVisible(inside ?? ''))) await page.click(`${fold} > summary`);
  }
  await page.fill('#hub-name', name);
  await page.press('#hub-name', 'Enter');
  await until(page, '#hub-fit:not(:has-text("Reading"))');
  say('hub', `${name}: ${await page.innerText('#hub-files label:has(:checked)')}\n${await page.innerText('#hub-fit')}`);
  await page.click('#hub-download');
}

/** @param {Page} page */
async function giveExamples(page) {
  const data = variable('DATA');
  if (data) await page.setInputFiles('#data-file', data);
  else await page.click('[data-sample=pirate]');
  await until(page, '#data-ready');
  say('examples', `${await page.innerText('#data-name')}: ${await facts(page, 'data-facts')}`);
  if (await page.isVisible('#data-skipped')) say('', await page.innerText('#data-skipped'));
}

/** @param {Page} page */
async function train(page) {
  await page.click('#settings > summary');
  for (const [name, setting] of Object.entries(SETTINGS)) {
    const value = variable(name);
    if (value) await page.fill(`#setting-${setting}`, value);
  }
  const targets = variable('TARGETS');
  if (targets && targets !== 'all-linear') {
    const names = targets.split(/[\s,]+/);
    const boxes = page.locator('#setting-targetModules input');
    const known = await boxes.evaluateAll((inputs) => inputs.map((input) => /** @type {HTMLInputElement} */ (input).value));
    const unknown = names.find((name) => !known.includes(name));
    if (unknown) throw new PageError(`TARGETS names ${unknown}; the page offers ${known.join(', ')}`);
    for (const name of known) {
      await page.locator(`#setting-targetModules input[value=${name}]`).setChecked(names.includes(name));
    }
  }

  let printed = 0;
  const printSteps = async () => {
    for (const row of (await page.locator('#train-steps tr').all()).slice(printed)) {
      const [step, loss, , , speed, left] = (await row.locator('td').allTextContents()).map((text) => text.trim());
      say('step', `${step?.padStart(3)}   loss ${loss}   ${speed} tokens/s   ${left} left`);
      printed++;
    }
  };
  await page.click('#train-start');
  await until(page, '#train-stop');
  await until(page, '#train-start', printSteps);
  say('training', await page.innerText('#train-status'));
}

/** @param {Page} page */
async function compare(page) {
  const prompt = variable('PROMPT');
  if (prompt) await page.fill('#prompt', prompt);
  say('prompt', await page.inputValue('#prompt'));
  await page.click('#compare-ask');
  await until(page, '#compare-stop');
  await until(page, '#compare-ask');
  say('base', await page.innerText('.turn:last-child [data-side=base]'));
  say('tuned', await page.innerText('.turn:last-child [data-side=tuned]'));
}

/** Training and answers as they are on the page now. @param {Page} page @param {string} file */
async function takePicture(page, file) {
  await page.locator('#settings').evaluate((fold) => fold.removeAttribute('open'));
  const clip = await page.evaluate((margin) => {
    const [from, to] = ['train-step', 'after'].map((id) => document.getElementById(id)?.getBoundingClientRect());
    const y = scrollY + (from?.top ?? 0) - margin;
    return { x: 0, y, width: innerWidth, height: scrollY + (to?.bottom ?? 0) + margin - y };
  }, MARGIN);
  await page.screenshot({ path: file, fullPage: true, clip });
  say('picture', file);
}

/** @param {Page} page */
async function keep(page) {
  await page.click('#tab-export');
  const coming = page.waitForEvent('download');
  await page.click('#keep-download');
  const zip = await readFile(await (await coming).path());
  await mkdir(OUT, { recursive: true });
  const names = [];
  for (const [name, bytes] of Object.entries(unzipSync(zip))) {
    names.push(path.join(OUT, path.basename(name)));
    await writeFile(names.at(-1) ?? '', bytes);
  }
  say('adapter', names.join('\n'));
}

for (const name of ['MODEL', 'DATA']) {
  const file = variable(name);
  if (!file || existsSync(file) || (name === 'MODEL' && HUB_NAME.test(file))) continue;
  console.error(`error       ${name}: there is no ${file}`);
  process.exit(1);
}
const root = fileURLToPath(new URL('..', import.meta.url));
const server = await preview({ root, configFile: path.join(root, 'vite.config.ts'), logLevel: 'error' });
const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });
try {
  const page = await browser.newPage({ acceptDownloads: true, viewport: { width: 820, height: 900 } });
  const hub = variable('HUB');
  await page.goto(`${server.resolvedUrls?.local[0] ?? ''}${hub ? `?hub=${hub}` : ''}`);
  await until(page, '#device:not([data-state=waiting])');
  say('GPU', await page.innerText('#device-text'));
  if (await page.isVisible('#device-note')) say('', await page.innerText('#device-note'));
  await chooseModel(page);
  await giveExamples(page);
  await train(page);
  await compare(page);
  const picture = variable('PICTURE');
  if (picture) await takePicture(page, picture);
  await keep(page);
} catch (error) {
  console.error(error instanceof PageError ? `error       ${error.message}` : error);
  process.exitCode = 1;
} finally {
  await browser.close();
  await server.close();
}
