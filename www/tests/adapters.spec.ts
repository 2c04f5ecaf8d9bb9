/** Adapters by the package's own methods, from the main thread through worker and wasm and back. */

import { fileURLToPath } from 'node:url';
import { createServer, type ViteDevServer } from 'vite';
import { CHATS, expect, test, tinyModel } from './studio.js';

let server: ViteDevServer;
test.beforeAll(async () => {
  server = await createServer({ root: fileURLToPath(new URL('..', import.meta.url)), logLevel: 'error' });
  await server.listen();
});
test.afterAll(() => server.close());

test('kept under names, switched, looked into, made smaller and added up', async ({ page }) => {
  const address = new URL('/blank', server.resolvedUrls?.local[0]).href;
  await page.route(address, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
  await page.goto(address);
  const model = Object.entries(await tinyModel()).map(([name, bytes]) => ({ name, bytes: bytes.toString('base64') }));

  const told = await page.evaluate(
    async ({ model, chats, index }) => {
      const { createEngine } = (await import(index)) as typeof import('../src/index.js');
      const engine = await createEngine();
      const bytes = (text: string) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
      const files = model.map(({ name, bytes: text }) => new File([bytes(text)], name));
      await engine.loadModel(files);
      const { cost } = await engine.planMemory(files, { r: 4 });
      await engine.loadDataset(chats);
      const answer = () =>
        engine.generate({ messages: [{ role: 'user', content: 'Hi' }], maxNewTokens: 6, topLogprobs: 3 });
      const code = (promise: Promise<unknown>) =>
        promise.then(() => 'fine', (error) => `${error.code} ${error.setting}`);

      const base = await answer();
      const info = await engine.newAdapter({ r: 4 });
      await engine.train({ steps: 30, learningRate: 1e-2, warmupSteps: 0 });
      const tuned = await answer();
      await engine.addAdapter('ahoy');
      await engine.newAdapter({ r: 4, seed: 1 });
      const fresh = await answer();
      await engine.useAdapter('ahoy');
      const back = await answer();
      const spectrum = await engine.inspectAdapter();
      const small = await engine.compressAdapter({ keep: 0.9 });
      await engine.addAdapter('small', small.files);
      const double = await engine.combineAdapters([{ name: 'ahoy', weight: 1 }, { files: small.files, weight: 0.5 }]);
      const { parameters } = await engine.loadAdapter(double.files);
      await engine.useAdapter();
      const list = await engine.listAdapters();
      await engine.removeAdapter('small');
      const refused = [
        await code(engine.useAdapter('small')),
        await code(engine.addAdapter('ahoy')),
        await code(engine.compressAdapter({})),
        await code(engine.compressAdapter({ keep: Number.NaN })),
        await code(engine.combineAdapters([])),
        await code(engine.combineAdapters([{ weight: 1 }], { how: 'ties' as 'cat' })),
        await code(engine.generate({ prompt: 'Hi', topLogprobs: 21 })),
      ];
      engine.dispose();
      const answers = { base, tuned, fresh, back };
      return { cost, info, answers, spectrum, small, double: double.parameters, parameters, list, refused };
    },
    { model, chats: CHATS, index: '/dist/index.js' },
  );

  expect([told.cost.parameters, told.cost.baseParameters]).toEqual([told.info.parameters, told.info.baseParameters]);
  expect(told.answers.tuned.text).toBe('Ahoy!');
  expect(told.answers.fresh.text).toBe(told.answers.base.text);
  expect(told.answers.back).toEqual(told.answers.tuned);
  const logprobs = told.answers.tuned.logprobs ?? [];
  expect(logprobs.map(({ text }) => text).join('')).toBe('Ahoy!');
  expect(logprobs.every(({ logprob, top }) => top.length === 3 && top[0]?.logprob === logprob)).toBe(true);
  expect(told.spectrum.modules).toHaveLength(21);
  expect(told.spectrum.modules[0]?.singularValues).toHaveLength(4);
  expect(told.small.relativeError).toBeLessThan(Math.sqrt(0.1));
  expect(told.small.parameters).toBeLessThan(told.info.parameters);
  expect(told.double).toBe(told.info.parameters + told.small.parameters);
  expect(told.parameters).toBe(told.double);
  // loadAdapter took the place of the one in use, 'ahoy'.
  expect(told.list.map(({ name, inUse, parameters }) => [name, inUse, parameters])).toEqual([
    [undefined, true, told.info.parameters],
    ['ahoy', false, told.double],
    ['small', false, told.small.parameters],
  ]);
  expect(told.refused).toEqual([
    'bad_setting adapter',
    'bad_setting name',
    'bad_setting r',
    'bad_setting keep',
    'bad_setting adapters',
    'bad_setting options',
    'bad_setting topLogprobs',
  ]);
});
