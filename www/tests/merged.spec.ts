/** Model and adapter as one model: into a folder, looked at, as a zip, stopped; and the same by the package. */

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { strFromU8, unzipSync } from 'fflate';
import { createServer, type ViteDevServer } from 'vite';
import { CHATS, expect, FIXTURES, test, tinyModel, type Studio } from './studio.js';

const NAMES = ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];

async function withAdapter(studio: Studio): Promise<void> {
  await studio.loadModel();
  await studio.page.setInputFiles('#keep-folder', `${FIXTURES}adapters/llama-gqa-tied`);
  await expect(studio.get('#after')).toBeVisible();
  await studio.get('#tab-export').click();
  await studio.unfold();
}

test('written to a folder and checked, and as a zip where there are no folders', async ({ studio, page }) => {
  // A folder of the page's own stands for one that a person chooses.
  await page.addInitScript(() => {
    Object.assign(window, { showDirectoryPicker: () => navigator.storage.getDirectory() });
  });
  await studio.open();
  await withAdapter(studio);
  await page.fill('#keep-name', 'Ahoy');
  await expect(studio.get('#merged-hint')).toHaveText(/^It takes about \d+ kB\.$/);
  await studio.get('#merged-save').click();
  await expect(studio.get('#merged-status')).toHaveText(/^Written: \d+ kB in the folder ahoy-merged\.$/);
  const files = await page.evaluate(async () => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('ahoy-merged');
    const found: [string, string][] = [];
    for await (const entry of folder.values()) {
      const file = await (entry as FileSystemFileHandle).getFile();
      found.push([entry.name, entry.name.endsWith('.json') ? await file.text() : String(file.size)]);
    }
    return found.sort();
  });
  expect(files.map(([name]) => name)).toEqual(NAMES);
  const given = await tinyModel();
  expect(files[2]?.[1]).toBe(String(given['tokenizer.json']));
  // Bytes are those of the base, which is in F32 and has no more tensors.
  expect(Math.abs(Number(files[1]?.[1]) - (given['model.safetensors']?.length ?? 0))).toBeLessThan(2000);

  await studio.get('#merged-check').click();
  const words = /^Loaded again, it gives logits within (\S+) of those of model and adapter, which moves them by up to (\S+)\. The likeliest tokens are the same\.$/;
  await expect(studio.get('#merged-status')).toHaveText(words, { timeout: 60_000 });
  const [, off, moved] = words.exec(await studio.get('#merged-status').innerText()) ?? [];
  // In F32 all that differs is the order of sums.
  expect(Number(off)).toBeLessThan(1e-4 * Number(moved));
  expect(Number(moved)).toBeGreaterThan(1);

  // llama.cpp's format comes back as the same adapter.
  await page.selectOption('#keep-format', 'gguf');
  const facts = await studio.get('#keep-facts').textContent();
  await page.setInputFiles('#keep-zip', await studio.download('#keep-download'));
  await expect(page.locator('#announcer')).toHaveText('The adapter is loaded. You can compare the answers now.');
  expect(await studio.get('#keep-facts').textContent()).toBe(facts);

  await page.addInitScript(() => Object.assign(window, { showDirectoryPicker: undefined }));
  await studio.open();
  await withAdapter(studio);
  await page.selectOption('#merged-dtype', 'bf16');
  const zip = unzipSync(await readFile(await studio.download('#merged-save')));
  expect(Object.keys(zip).sort()).toEqual(NAMES);
  expect(JSON.parse(strFromU8(zip['config.json'] ?? new Uint8Array())).dtype).toBe('bfloat16');
  await expect(studio.get('#merged-check')).toBeHidden();
});

let server: ViteDevServer;
test.beforeAll(async () => {
  server = await createServer({ root: fileURLToPath(new URL('..', import.meta.url)), cacheDir: '../.cache/vite-merged', logLevel: 'error' });
  await server.listen();
});
test.afterAll(() => server.close());

test('streamed by the package, in shards, and stopped', async ({ page }) => {
  const address = new URL('/blank', server.resolvedUrls?.local[0]).href;
  await page.route(address, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
  await page.goto(address);
  const model = Object.entries(await tinyModel()).map(([name, bytes]) => ({ name, bytes: bytes.toString('base64') }));
  const told = await page.evaluate(
    async ({ model, chats, index }) => {
      const { createEngine } = (await import(index)) as typeof import('../src/index.js');
      const engine = await createEngine();
      const bytes = (text: string) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
      const code = (promise: Promise<unknown>) => promise.then(() => 'fine', (error) => error.code);
      await engine.loadModel(model.map(({ name, bytes: text }) => new File([bytes(text)], name)));
      const without = await code(engine.openMerged());
      await engine.loadDataset(chats);
      await engine.newAdapter({ r: 4 });
      await engine.train({ steps: 20, learningRate: 1e-2, warmupSteps: 0 });

      const whole = await engine.openMerged({ dtype: 'bf16', maxShardBytes: 60_000 });
      // What comes later is not in it.
      await engine.newAdapter({ r: 2 });
      const files: File[] = [];
      for (const { name, stream } of whole.files) files.push(new File([await new Response(stream()).blob()], name));
      await whole.close();
      const closed = await code(whole.files[0]!.stream().getReader().read());
      const sizes = whole.files.every(({ size }, at) => files[at]?.size === size);
      const { files: _, close: __, ...report } = whole;
      await engine.loadModel(files);
      const answer = await engine.generate({ messages: [{ role: 'user', content: 'Hi' }], maxNewTokens: 6 });

      await engine.newAdapter({ r: 2 });
      const root = await navigator.storage.getDirectory();
      const stop = new AbortController();
      const stopped = await code(
        engine.saveMerged(root, { maxShardBytes: 60_000 }, {
          signal: stop.signal,
          onProgress: ({ loaded, total }) => loaded > total / 2 && stop.abort(),
        }),
      );
      const left: string[] = [];
      for await (const { name } of root.values()) left.push(name);
      const refused = await code(engine.openMerged({ dtype: 'q8_0' as 'f16' }));
      engine.dispose();
      return { without, names: files.map(({ name }) => name), closed, sizes, report, answer: answer.text, stopped, left, refused };
    },
    { model, chats: CHATS, index: '/dist/index.js' },
  );
  expect(told.names.filter((name) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name)).length).toBeGreaterThan(4);
  expect(told.names).toContain('model.safetensors.index.json');
  expect(told.report).toEqual({
    dtype: 'bf16',
    baseDtype: 'F32',
    baseQuantized: false,
    tokenizer: 'copied',
    merged: 21,
    sizeBytes: expect.any(Number),
  });
  expect([told.answer, told.sizes]).toEqual(['Ahoy!', true]);
  expect([told.without, told.closed, told.stopped, told.refused]).toEqual(['not_ready', 'not_ready', 'cancelled', 'bad_setting']);
  expect(told.left).toEqual([]);
});
