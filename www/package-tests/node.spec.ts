/** What a browser's storage does in a browser, a folder does in Node: models of the Hub, and runs. */

import { readFile } from 'node:fs/promises';
import { expect, test } from '@playwright/test';
import { HubServer } from '../tests/hub-server.js';
import { tinyModel } from '../tests/studio.js';
import { APP, command, install, installDawn, interrupt, node } from './installed.js';

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

test('the command keeps a run, and goes on with it after a kill to the same bytes', async () => {
  const settings = ['--model', 'model', '--data', 'data.jsonl', '--rank', '2', '--target-modules', 'q_proj,v_proj', '--steps', '6', '--seed', '3'];
  const given = ['--variant', 'direct', '--json'];
  const kept = ['--run', 'killed', '--save-steps', '1', '--out', 'killed'];
  expect(await interrupt(['train', ...settings, ...given, ...kept], '"type":"checkpoint","step":2', 'SIGKILL')).toBe(null);
  const list = async () => (await command(['runs', '--json'])).stdout.trim().split('\n').map((line) => JSON.parse(line));
  const [cutOff] = await list();
  expect(cutOff).toMatchObject({ name: 'killed', status: 'interrupted', steps: 6 });
  expect(cutOff.step).toBeGreaterThanOrEqual(2);
  expect(cutOff.step).toBeLessThan(6);

  const resume = ['train', '--resume', '--run', 'killed', '--out', 'resumed', ...given];
  expect(await command([...resume, '--steps', '9'])).toMatchObject({ code: 2, stderr: expect.stringContaining('--steps cannot be given') });
  const resumed = await command(resume);
  expect(resumed).toMatchObject({ code: 0 });
  const told = resumed.stdout.trim().split('\n').map((line) => JSON.parse(line));
  const steps = told.filter(({ type }) => type === 'step').map(({ step }) => step);
  expect(steps[0]).toBeGreaterThan(2);
  expect(steps.at(-1)).toBe(6);
  expect((await command(['runs'])).stdout).toMatch(/^killed +done +6\/6 +loss /);
  expect(await command(resume)).toMatchObject({ code: 2, stderr: expect.stringContaining('a run of this name is done') });

  expect(await command(['train', ...settings, ...given, '--out', 'whole'])).toMatchObject({ code: 0 });
  const [one, other] = await Promise.all(['resumed', 'whole'].map((out) => readFile(`${APP}/${out}/adapter_model.safetensors`)));
  expect(one?.equals(other ?? Buffer.of())).toBe(true);
});
