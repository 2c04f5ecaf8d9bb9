/** What a browser's storage does in a browser, a folder does in Node: models of the Hub, and runs. */

import { expect, test } from '@playwright/test';
import { HubServer } from '../tests/hub-server.js';
import { tinyModel } from '../tests/studio.js';
import { install, installDawn, node } from './installed.js';

let hub: HubServer;

test.describe.configure({ mode: 'serial' });
test.beforeAll(async () => {
  await install();
  await installDawn();
  hub = await HubServer.start();
  hub.add('tiny/chat', await tinyModel());
});
test.afterAll(() => hub.stop());

async function ask(what: string): Promise<Record<string, unknown>> {
  const ran = await node(['node-hub.mjs', hub.endpoint, what]);
  expect(ran).toMatchObject({ code: 0, stderr: '' });
  return JSON.parse(ran.stdout);
}

test('a file that is damaged on its way is not kept', async () => {
  hub.damaged = 'model.safetensors';
  expect(await ask('load')).toMatchObject({ code: 'bad_file', message: expect.stringContaining('model.safetensors') });
  hub.damaged = undefined;
});

test('a download that breaks off goes on, and is kept', async () => {
  hub.cuts = { answers: 2, after: 100_000 };
  const first = await ask('load');
  expect(first).toMatchObject({ name: 'chat', kept: [['tiny/chat', true]] });
  expect(first.phases).toContain('download');
  hub.log.length = 0;
  expect((await ask('load')).phases).not.toContain('download');
  expect(hub.log.filter(({ server }) => server === 'cdn')).toEqual([]);
});

test('a run is kept, and goes on where it was stopped', async () => {
  hub.stop();
  expect(await ask('run')).toEqual({ status: 'stopped', after: 'done', steps: [1, 2, 3, 4], same: true });
});
