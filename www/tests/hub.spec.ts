/** Models by name: chosen from the list, downloaded, broken off, taken up again, kept, deleted and refused. */

import type { Page } from '@playwright/test';
import { HubServer } from './hub-server.js';
import { expect, test as base, tinyModel, type Studio } from './studio.js';

const SMOL = 'HuggingFaceTB/SmolLM2-135M-Instruct';
const GEMMA = 'google/gemma-3-270m-it';
const WEIGHTS = 'model.safetensors';

const test = base.extend<{ hub: HubServer; files: Record<string, Buffer>; open: (model?: string) => Promise<void> }>({
  // The empty pattern is what Playwright asks for.
  files: async ({}, use) => use(await tinyModel()),
  hub: async ({ files }, use) => {
    const hub = await HubServer.start();
    hub.add(SMOL, files, { license: 'apache-2.0' });
    hub.add(GEMMA, files, { license: 'gemma', gated: true });
    await use(hub);
    hub.stop();
  },
  /** Opens the page on the stand-in, and there a model of the list or any other. */
  open: async ({ studio, page, hub }, use) => {
    await use(async (model) => {
      await page.goto(`/?hub=${hub.endpoint}`);
      await expect(studio.get('#device')).not.toHaveAttribute('data-state', 'waiting');
      if (model) await lookUp(page, model);
    });
  },
});

/** Opens the fold of other models, and in it the Hub’s. */
async function unfold(page: Page): Promise<void> {
  for (const id of ['#model-more', '#hub']) await page.locator(id).evaluate((fold: HTMLDetailsElement) => (fold.open = true));
}

async function lookUp(page: Page, model: string): Promise<void> {
  await unfold(page);
  await page.fill('#hub-name', model);
  await page.keyboard.press('Enter');
}

async function loaded(studio: Studio): Promise<void> {
  await expect(studio.get('#model-ready')).toBeVisible();
}

/** From which byte on a file was asked for, each time that its contents were. */
function starts(hub: HubServer, path: string): number[] {
  const downloads = hub.requestsFor(path).filter(({ range }) => !/-\d+$/.test(range ?? ''));
  return downloads.map(({ range }) => Number(/\d+/.exec(range ?? '')?.[0] ?? 0));
}

test('chosen from the list, downloaded in sight, kept, and loaded again without the Hub', async ({ studio, page, hub, open, files }) => {
  hub.delayMs = 25;
  await open();
  await unfold(page);
  await page.getByRole('button', { name: 'Choose SmolLM2 135M Instruct' }).click();
  await expect(studio.get('#hub-facts')).toContainText('apache-2.0');
  await expect(studio.get('#hub-files')).toContainText('789 kB in 4 files');
  await expect(studio.get('#hub-fit')).toContainText(/Training takes .* of GPU memory.* tokens a second/);
  // So far only headers have been read.
  expect(starts(hub, WEIGHTS)).toEqual([]);

  await page.getByRole('button', { name: 'Download 789 kB' }).click();
  await expect(studio.get('#model-loading-text')).toContainText(/Downloading: .* of 789 kB · .*B\/s · \d+ s left/);
  await loaded(studio);
  await expect(studio.get('#model-name')).toHaveText('SmolLM2-135M-Instruct');
  expect(starts(hub, WEIGHTS)).toEqual([0]);
  expect(Object.keys(files).flatMap((name) => starts(hub, name))).toEqual([0, 0, 0, 0]);

  hub.stop();
  await open();
  await expect(studio.get('#kept-models')).toContainText('789 kB');
  await page.getByRole('button', { name: `Use ${SMOL}` }).click();
  await loaded(studio);

  await open();
  await lookUp(page, SMOL);
  await page.getByRole('button', { name: 'Load', exact: true }).and(studio.get('#hub-download')).click();
  await loaded(studio);

  await studio.get('#model-change').click();
  await page.getByRole('button', { name: `Delete ${SMOL}` }).click();
  await expect(studio.get('#kept')).toBeHidden();
  expect(await page.evaluate(async () => (await navigator.storage.estimate()).usage ?? 0)).toBeLessThan(788_000);
});

test('what the Hub has can be asked while the engine starts, and whether it fits is told once it has', async ({ studio, page, hub }) => {
  let start = () => undefined as void;
  const asked = new Promise<void>((resolve) => (start = resolve));
  await page.route('**/assets/worker-*.js', async (route) => {
    await asked;
    await route.continue();
  });
  await page.goto(`/?hub=${hub.endpoint}`);
  await lookUp(page, SMOL);
  await expect(studio.get('#hub-files')).toContainText('789 kB in 4 files');
  await expect(studio.get('#hub-download')).toBeDisabled();
  start();
  await expect(studio.get('#hub-fit')).toContainText(/Training takes .* tokens a second/);
  await studio.get('#hub-download').click();
  await loaded(studio);
});

test('a connection that breaks is taken up where it broke', async ({ studio, hub, open, files }) => {
  hub.cuts = { answers: 2, after: 200_000 };
  await open(SMOL);
  await studio.get('#hub-download').click();
  await loaded(studio);
  const [first, second, third, ...more] = starts(hub, WEIGHTS);
  expect([first, more]).toEqual([0, []]);
  expect(second).toBeGreaterThan(0);
  expect(second).toBeLessThanOrEqual(200_000);
  expect(third).toBeGreaterThan((second ?? 0) + 100_000);
  expect(third).toBeLessThan(files[WEIGHTS]?.length ?? 0);
});

test('paused, the page closed, and gone on with from there', async ({ studio, page, hub, open, files }) => {
  hub.delayMs = 150;
  await open(SMOL);
  await studio.get('#hub-download').click();
  await expect(studio.get('#model-loading-text')).toContainText(/[1-6]\d\d kB of/);
  await page.getByRole('button', { name: 'Pause' }).click();
  await expect(studio.get('#hub-download')).toHaveText(/Go on: \d+ kB to come/);
  await expect(studio.get('#hub-download')).toBeFocused();
  await expect(studio.get('#hub-error')).toBeHidden();

  await open();
  hub.delayMs = 0;
  await expect(studio.get('#kept-models')).toContainText(/\d+ kB of 789 kB/);
  await page.getByRole('button', { name: `Go on ${SMOL}` }).click();
  await studio.get('#hub-download').click();
  await loaded(studio);
  const [, again, ...more] = starts(hub, WEIGHTS);
  expect(again).toBeGreaterThan(0);
  expect(again).toBeLessThan(files[WEIGHTS]?.length ?? 0);
  expect(more).toEqual([]);
  // Small files that were there whole are not asked for twice.
  expect(starts(hub, 'tokenizer.json')).toEqual([0]);
});

test('a page that is closed in the middle keeps what came', async ({ studio, hub, open }) => {
  hub.delayMs = 150;
  await open(SMOL);
  await studio.get('#hub-download').click();
  await expect(studio.get('#model-loading-text')).toContainText(/[1-6]\d\d kB of/);
  await open(SMOL);
  hub.delayMs = 0;
  await expect(studio.get('#hub-download')).toHaveText(/Go on/);
  await studio.get('#hub-download').click();
  await loaded(studio);
  expect(starts(hub, WEIGHTS)[1]).toBeGreaterThan(0);
});

test('what is being downloaded is not deleted by another tab', async ({ studio, page, hub, open }) => {
  hub.delayMs = 150;
  await open(SMOL);
  await studio.get('#hub-download').click();
  await expect(studio.get('#model-loading-text')).toContainText(/\d\d kB of/);
  const other = await page.context().newPage();
  await other.goto(`/?hub=${hub.endpoint}`);
  await other.getByRole('button', { name: `Delete ${SMOL}` }).click();
  await expect(other.locator('#kept-error')).toContainText('is being downloaded');
  hub.delayMs = 0;
  await loaded(studio);
});

test('two tabs want the same model: it is downloaded once', async ({ studio, page, hub, open }) => {
  hub.delayMs = 150;
  await open(SMOL);
  const other = await page.context().newPage();
  await other.goto(`/?hub=${hub.endpoint}`);
  await expect(other.locator('#device')).not.toHaveAttribute('data-state', 'waiting');
  await lookUp(other, SMOL);
  await expect(other.locator('#hub-fit')).toContainText('Training takes');
  await studio.get('#hub-download').click();
  await expect(studio.get('#model-loading-text')).toContainText(/\d\d kB of/);
  await other.locator('#hub-download').click();
  await expect(other.locator('#model-loading-text')).toContainText('Another tab');
  hub.delayMs = 0;
  await loaded(studio);
  await expect(other.locator('#model-ready')).toBeVisible();
  expect(starts(hub, WEIGHTS)).toEqual([0]);
});

test('a file that is not the one that was listed is deleted', async ({ studio, page, hub, open }) => {
  hub.damaged = WEIGHTS;
  await open(SMOL);
  await studio.get('#hub-download').click();
  await expect(studio.get('#hub-error')).toContainText(`${WEIGHTS} is not the file that the Hub lists: its SHA-256`);
  await expect(page.getByRole('button', { name: 'Go on: 779 kB to come' })).toBeVisible();
  hub.damaged = undefined;
  await studio.get('#hub-download').click();
  await loaded(studio);
  expect(starts(hub, WEIGHTS)).toEqual([0, 0]);
});

test('a gated model, and where its token goes', async ({ studio, page, hub, open }) => {
  await open(GEMMA);
  await expect(studio.get('#hub-token-field')).toBeVisible();
  await studio.get('#hub-download').click();
  await expect(studio.get('#hub-error')).toContainText(`${GEMMA} is gated: accept its authors’ terms`);

  await page.fill('#hub-token', hub.stranger);
  await page.keyboard.press('Tab');
  await expect(studio.get('#hub-error')).toContainText('not in the authorized list');
  await page.fill('#hub-token', 'hf_nobody');
  await page.keyboard.press('Tab');
  await expect(studio.get('#hub-error')).toContainText('token is not valid');

  await page.fill('#hub-token', hub.token);
  await page.keyboard.press('Tab');
  await expect(studio.get('#hub-fit')).toContainText('Training takes');
  await studio.get('#hub-download').click();
  await loaded(studio);
  expect(hub.log.some(({ server, authorization }) => server === 'hub' && authorization === `Bearer ${hub.token}`)).toBe(true);
  expect(hub.log.filter(({ server, authorization }) => server === 'cdn' && authorization)).toEqual([]);

  // Not kept unless a person wants it.
  const stored = () => page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
  expect(await stored()).not.toContain(hub.token);
  await open(GEMMA);
  await expect(studio.get('#hub-token')).toHaveValue('');
  await page.fill('#hub-token', hub.token);
  await page.check('#hub-token-keep');
  await open(GEMMA);
  await expect(studio.get('#hub-token')).toHaveValue(hub.token);
  await page.uncheck('#hub-token-keep');
  expect(await stored()).not.toContain(hub.token);
});

test.describe('refused by name', () => {
  const unlike = async (studio: Studio, page: Page, model: string, message: string | RegExp) => {
    await lookUp(page, model);
    await expect(studio.get('#hub-error')).toContainText(message);
    await expect(studio.get('#hub-list')).toBeVisible();
  };

  test('what is not on the Hub', async ({ studio, page, hub, open, files }) => {
    const { [WEIGHTS]: weights = Buffer.of(), ...rest } = files;
    hub.add('some/pickle', { ...rest, 'pytorch_model.bin': weights });
    hub.add('some/words', { 'notes.json': Buffer.from('{}') });
    const parts = [1, 3].map((i) => [`model-0000${i}-of-00003.safetensors`, weights] as const);
    hub.add('some/shards', { ...rest, 'model.safetensors.index.json': Buffer.from('{}'), ...Object.fromEntries(parts) });
    await open();
    await unlike(studio, page, 'smollm2', 'allowed is org/name');
    await unlike(studio, page, 'no/such', 'There is no model no/such');
    await unlike(studio, page, `${SMOL}@v9`, `${SMOL} has no revision “v9”`);
    await unlike(studio, page, 'some/pickle', 'pytorch_model.bin, a pickle');
    await unlike(studio, page, 'some/words', 'no model in it');
    await unlike(studio, page, 'some/shards', 'model-00002-of-00003.safetensors is missing in some/shards');
    hub.stop();
    await unlike(studio, page, 'other/model', 'cannot be reached');
  });

  test('an architecture that is not implemented, before its weights are downloaded', async ({ studio, hub, open, files }) => {
    const config = { ...JSON.parse(String(files['config.json'])), model_type: 'mamba' };
    hub.add('some/mamba', { ...files, 'config.json': Buffer.from(JSON.stringify(config)) });
    await open('some/mamba');
    await expect(studio.get('#hub-error')).toContainText('model_type');
    await expect(studio.get('#hub-download')).toBeDisabled();
    expect(starts(hub, WEIGHTS)).toEqual([]);
  });

  test('more than there is room for, before and while it comes', async ({ studio, page, baseURL, hub, open, files }) => {
    hub.add('some/giant', files, { sizes: { [WEIGHTS]: 1e15 } });
    await open('some/giant');
    await studio.get('#hub-download').click();
    await expect(studio.get('#hub-error')).toContainText(/no room for some\/giant. \d{6,} MB are missing/);
    expect(starts(hub, WEIGHTS)).toEqual([]);

    const browser = await page.context().newCDPSession(page);
    await browser.send('Storage.overrideQuotaForOrigin', { origin: baseURL ?? '', quotaSize: 100_000 });
    await open(SMOL);
    await studio.get('#hub-download').click();
    await expect(studio.get('#hub-error')).toContainText(`no room for ${SMOL}. It is full. Delete a model`);
  });
});

test('GGUF files and models in parts are listed with their sizes', async ({ studio, page, hub, open, files }) => {
  const { [WEIGHTS]: weights = Buffer.of(), ...rest } = files;
  const gguf = (kilobytes: number) => Buffer.alloc(1000 * kilobytes);
  hub.add('some/gguf', {
    'm-Q8_0.gguf': gguf(80),
    'm-Q4_K_M.gguf': gguf(40),
    'm-F16-00001-of-00002.gguf': gguf(70),
    'm-F16-00002-of-00002.gguf': gguf(60),
    'mmproj-m.gguf': gguf(10),
  });
  const index = Buffer.from(JSON.stringify({ weight_map: { a: 'model-00001-of-00002.safetensors' } }));
  const shards = { 'model-00001-of-00002.safetensors': weights, 'model-00002-of-00002.safetensors': weights };
  hub.add('some/shards', { ...rest, 'model.safetensors.index.json': index, ...shards }, { branches: ['v2'] });
  await page.setViewportSize({ width: 375, height: 800 });
  await open('some/gguf');
  await expect(studio.get('#hub-files label')).toHaveText(['m-Q4_K_M.gguf40 kB', 'm-Q8_0.gguf80 kB', 'm-F16.gguf130 kB in 2 files']);
  await expect(page.getByLabel('m-Q4_K_M.gguf')).toBeChecked();
  await page.getByLabel('m-F16.gguf').check();
  await expect(studio.get('#hub-download')).toHaveText('Download 130 kB');
  await expect(studio.get('#hub-error')).toContainText('m-F16-0000');

  for (const control of await page.locator('#hub').locator('button:visible, input:visible').all()) {
    await expect(control).toHaveAccessibleName(/\w/);
  }
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(375);

  await studio.get('#hub-back').click();
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(375);
  await lookUp(page, 'some/shards@v2');
  await expect(studio.get('#hub-facts')).toContainText(`v2 (${hub.commitOf('some/shards').slice(0, 7)})`);
  await expect(studio.get('#hub-files label')).toHaveText(['model.safetensors1.6 MB in 6 files']);
});
