/** Models by URL, from a server that the test plays. */

import type { Page, Route } from '@playwright/test';
import { expect, test, tinyModel } from './studio.js';

interface ServerOptions {
  ranges?: boolean;
  /** More files. */
  also?: Record<string, Buffer>;
  /** Called before each answer; may give another. */
  instead?: (name: string, route: Route) => Promise<void> | undefined;
}

/** Plays `/elsewhere/`, a folder with the tiny model, for the page and its worker. */
async function serveFolder(page: Page, { ranges = true, also = {}, instead }: ServerOptions = {}): Promise<void> {
  const files = { ...(await tinyModel()), ...also };
  await page.context().route('**/elsewhere/**', async (route) => {
    const name = new URL(route.request().url()).pathname.split('/').pop() ?? '';
    const answer = instead?.(name, route);
    if (answer) return answer;
    const bytes = files[name];
    if (!bytes) return route.fulfill({ status: 404 });
    const range = /bytes=(\d+)-(\d+)/.exec(route.request().headers().range ?? '');
    if (!ranges || !range) return route.fulfill({ status: 200, body: bytes });
    const [first, last] = [Number(range[1]), Number(range[2])];
    return route.fulfill({
      status: 206,
      headers: { 'Content-Range': `bytes ${first}-${last}/${bytes.length}` },
      body: bytes.subarray(first, last + 1),
    });
  });
}

async function load(page: Page, baseURL: string | undefined, name: string): Promise<void> {
  await page.getByText('Another model').click();
  await page.getByText('From a URL').click();
  await page.fill('#model-url', `${baseURL}/elsewhere/${name}`);
  await page.keyboard.press('Enter');
}

for (const ranges of [true, false]) {
  test(`a folder from a server ${ranges ? 'with' : 'without'} ranges`, async ({ studio, page, baseURL }) => {
    await serveFolder(page, { ranges });
    await studio.open();
    await load(page, baseURL, 'model/');
    await expect(studio.get('#model-ready')).toBeVisible();
  });
}

test('a folder whose weights are in a file that its index names', async ({ studio, page, baseURL }) => {
  const whole = (await tinyModel())['model.safetensors']!;
  const index = { weight_map: { 'model.norm.weight': 'model-00001-of-00001.safetensors' } };
  await serveFolder(page, {
    instead: (name, route) => {
      if (name === 'model.safetensors') return route.fulfill({ status: 404 });
      if (name === 'model.safetensors.index.json') return route.fulfill({ status: 200, json: index });
      return undefined;
    },
    also: { 'model-00001-of-00001.safetensors': whole },
  });
  await studio.open();
  await load(page, baseURL, 'model/');
  await expect(studio.get('#model-ready')).toBeVisible();
});

test('a part of a GGUF whose others are not there', async ({ studio, page, baseURL }) => {
  await serveFolder(page, { also: { 'm-00001-of-00002.gguf': Buffer.from('a part') } });
  await studio.open();
  await load(page, baseURL, 'm-00001-of-00002.gguf');
  await expect(studio.get('#model-error')).toContainText('m-00002-of-00002.gguf is not at');
});

test('a folder in shards: the index says which files there are', async ({ studio, page, baseURL }) => {
  const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
  const index = JSON.stringify({ weight_map: { a: shards[0], b: shards[1], c: shards[0] } });
  const asked = new Set<string>();
  await serveFolder(page, {
    instead: (name, route) => {
      asked.add(name);
      if (name === 'model.safetensors') return route.fulfill({ status: 404 });
      if (name === 'model.safetensors.index.json') return route.fulfill({ status: 200, body: index });
      return shards.includes(name) ? route.fulfill({ status: 200, body: 'weights' }) : undefined;
    },
  });
  await studio.open();
  await load(page, baseURL, 'model/');
  await expect(studio.get('#model-error')).toBeVisible();
  expect([...asked].slice(-3)).toEqual(['model.safetensors.index.json', ...shards]);
});

test('a folder without weights', async ({ studio, page, baseURL }) => {
  const none = (name: string, route: Route) => (name.startsWith('model.') ? route.fulfill({ status: 404 }) : undefined);
  await serveFolder(page, { instead: none });
  await studio.open();
  await load(page, baseURL, 'model/');
  await expect(studio.get('#model-error')).toContainText('nor is model.safetensors.index.json');
});

test('a file that is not there', async ({ studio, page, baseURL }) => {
  await serveFolder(page);
  await studio.open();
  await load(page, baseURL, 'missing.gguf');
  await expect(studio.get('#model-error')).toContainText('missing.gguf is not at');
});

test('a server that fails', async ({ studio, page, baseURL }) => {
  await serveFolder(page, { instead: (_, route) => route.fulfill({ status: 503 }) });
  await studio.open();
  await load(page, baseURL, 'model.gguf');
  await expect(studio.get('#model-error')).toContainText('503');
});

test('a server that nobody hears from', async ({ studio, page, baseURL }) => {
  await serveFolder(page, { instead: (_, route) => route.abort() });
  await studio.open();
  await load(page, baseURL, 'model.gguf');
  await expect(studio.get('#model-error')).toContainText('cannot be reached');
});

test('a file that changes while it is read', async ({ studio, page, baseURL }) => {
  let answers = 0;
  await serveFolder(page, {
    instead: (name, route) => {
      if (name !== 'model.safetensors' || ++answers < 3) return undefined;
      return route.fulfill({ status: 206, headers: { 'Content-Range': 'bytes 0-1/99' }, body: 'no' });
    },
  });
  await studio.open();
  await load(page, baseURL, 'model/');
  await expect(studio.get('#model-error')).toContainText('changed on the server');
});

test('loading can be cancelled', async ({ studio, page, baseURL }) => {
  await serveFolder(page, { instead: () => new Promise((resolve) => setTimeout(resolve, 2000)) });
  await studio.open();
  await load(page, baseURL, 'model.gguf');
  await studio.get('#model-cancel').click();
  await expect(studio.get('#model-choices')).toBeVisible();
  await expect(studio.get('#model-error')).toBeHidden();
});

test('what is no address is not asked for', async ({ studio, page }) => {
  await studio.open();
  await page.getByText('Another model').click();
  await page.getByText('From a URL').click();
  await page.fill('#model-url', 'smollm2');
  await page.keyboard.press('Enter');
  await expect(studio.get('#model-error')).toContainText('not an address');
});
