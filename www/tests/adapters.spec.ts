/** Adapters by the package's own methods, from the main thread through worker and wasm and back. */

import { fileURLToPath } from 'node:url';
import type { Page } from '@playwright/test';
import { createServer, type ViteDevServer } from 'vite';
import { CHATS, expect, test, tinyModel } from './studio.js';

let server: ViteDevServer;
test.beforeAll(async () => {
  server = await createServer({ root: fileURLToPath(new URL('..', import.meta.url)), cacheDir: '../.cache/vite-adapters', logLevel: 'error' });
  await server.listen();
});
test.afterAll(() => server.close());

/** A page with nothing on it that can import the package; and the tiny model's files, as a page can be given them. */
async function openBlank(page: Page): Promise<{ name: string; bytes: string }[]> {
  const address = new URL('/blank', server.resolvedUrls?.local[0]).href;
  await page.route(address, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
  await page.goto(address);
  return Object.entries(await tinyModel()).map(([name, bytes]) => ({ name, bytes: bytes.toString('base64') }));
}

test('kept under names, switched, looked into, made smaller and added up', async ({ page }) => {
  const model = await openBlank(page);

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

test('every method stops by its signal: at once where it only tells, in its turn where it changes something', async ({ page }) => {
  const model = await openBlank(page);
  const told = await page.evaluate(
    async ({ model, chats, index }) => {
      const { createEngine } = (await import(index)) as typeof import('../src/index.js');
      const engine = await createEngine();
      const bytes = (text: string) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
      const files = model.map(({ name, bytes: text }) => new File([bytes(text)], name));
      await engine.loadModel(files);
      await engine.loadDataset(chats);
      await engine.newAdapter({ r: 4 });
      await engine.addAdapter('kept');
      const adapter = await engine.saveAdapter();
      const whole = await engine.inspectAdapter(undefined, { signal: new AbortController().signal });

      type Call = (options: { signal: AbortSignal }) => Promise<unknown>;
      const tells: Record<string, Call> = {
        inspectData: (options) => engine.inspectData(chats, {}, options),
        adapterInfo: (options) => engine.adapterInfo(options),
        saveAdapter: (options) => engine.saveAdapter(options),
        saveAdapterZip: (options) => engine.saveAdapterZip({ name: 'a', baseModel: 'b' }, options),
        'exportAdapter, peft': (options) => engine.exportAdapter('peft', options),
        'exportAdapter, gguf': (options) => engine.exportAdapter('gguf', options),
        listAdapters: (options) => engine.listAdapters(options),
        inspectAdapter: (options) => engine.inspectAdapter(undefined, options),
        compressAdapter: (options) => engine.compressAdapter({ r: 1 }, undefined, options),
        combineAdapters: (options) => engine.combineAdapters([{ weight: 2 }], {}, options),
        saveState: (options) => engine.saveState(options),
      };
      const changes: Record<string, Call> = {
        loadModel: ({ signal }) => engine.loadModel(files, { signal }),
        planMemory: (options) => engine.planMemory(files, {}, options),
        loadDataset: (options) => engine.loadDataset('{"text": "Other."}', {}, options),
        clearDataset: (options) => engine.clearDataset(options),
        newAdapter: (options) => engine.newAdapter({ r: 2 }, options),
        loadAdapter: (options) => engine.loadAdapter(adapter, options),
        addAdapter: (options) => engine.addAdapter('another', adapter, options),
        useAdapter: (options) => engine.useAdapter('kept', options),
        removeAdapter: (options) => engine.removeAdapter('kept', options),
        startTraining: (options) => engine.startTraining({ steps: 1 }, options),
        forwardBackward: (options) => engine.forwardBackward([0], 1, options),
        optimStep: (options) => engine.optimStep({}, options),
        loadState: (options) => engine.loadState(new Uint8Array(8), options),
        endTraining: (options) => engine.endTraining(options),
        evaluate: (options) => engine.evaluate({ data: 'train' }, options),
        profile: (options) => engine.profile({ steps: 1 }, options),
      };
      const before = JSON.stringify(await engine.listAdapters());
      const codes: Record<string, string[]> = {};
      const settle = async (name: string, call: Promise<unknown>) => {
        const code = await call.then(() => 'done', (error) => `${error.name} ${error.code}`);
        (codes[name] ??= []).push(code);
      };
      const aborted = (call: Call) => {
        const controller = new AbortController();
        const answer = call(controller);
        controller.abort();
        return answer;
      };
      for (const [name, call] of Object.entries({ ...tells, ...changes })) {
        await settle(name, call({ signal: AbortSignal.abort() }));
      }
      // One that is under way: who asked for it need not wait.
      for (const [name, call] of Object.entries(tells)) await settle(name, aborted(call));

      const stop = new AbortController();
      let begun = (): void => undefined;
      const first = new Promise<void>((resolve) => (begun = resolve));
      let ended = false;
      const training = engine.train({ steps: 100_000 }, { signal: stop.signal, onStep: () => begun() });
      void training.then(() => (ended = true));
      await first;
      for (const [name, call] of Object.entries(tells)) await settle(name, aborted(call));
      const endedMeanwhile = ended;
      const waiting = Object.entries(changes).map(([name, call]) => settle(name, aborted(call)));
      stop.abort();
      await Promise.all(waiting);
      const { steps } = await training;
      const { trainedSteps } = (await engine.adapterInfo()) ?? {};
      const after = (await engine.listAdapters()).map((entry) => (entry.inUse ? { ...entry, trainedSteps: 0 } : entry));
      const { examples } = await engine.evaluate({ data: 'train' });
      engine.dispose();
      return { codes, endedMeanwhile, steps, trainedSteps, same: JSON.stringify(after) === before, examples, modules: whole.modules.length };
    },
    { model, chats: CHATS, index: '/dist/index.js' },
  );

  for (const [name, codes] of Object.entries(told.codes)) expect(new Set(codes), name).toEqual(new Set(['WebLoraError cancelled']));
  expect(Object.keys(told.codes)).toHaveLength(27);
  expect(told.endedMeanwhile).toBe(false);
  expect(told.modules).toBe(21);
  // Nothing of what was stopped was done.
  expect(told).toMatchObject({ same: true, examples: 4, trainedSteps: told.steps });
});
