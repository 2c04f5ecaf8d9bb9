/** An adapter on its way to the Hub, of which there is a stand-in: made, filled, added to, refused and broken off. */

import { HubServer } from './hub-server.js';
import { expect, FIXTURES, test as base } from './studio.js';

const test = base.extend<{ hub: HubServer; open: () => Promise<void> }>({
  // The empty pattern is what Playwright asks for.
  hub: async ({}, use) => {
    const hub = await HubServer.start();
    await use(hub);
    hub.stop();
  },
  /** Opens the page on the stand-in, loads a model with an adapter, and opens the fold. */
  open: async ({ studio, page, hub }, use) => {
    await use(async () => {
      await page.goto(`/?hub=${hub.endpoint}`);
      await expect(studio.get('#device')).not.toHaveAttribute('data-state', 'waiting');
      await studio.loadModel();
      await page.setInputFiles('#keep-folder', `${FIXTURES}adapters/llama-gqa-tied`);
      await expect(studio.get('#after')).toBeVisible();
      await studio.get('#tab-export').click();
      await studio.unfold();
    });
  },
});

test('a private repository with the adapter and its card', async ({ studio, page, hub, open }) => {
  await open();
  await page.fill('#push-repo', `${hub.owner}/ahoy`);
  await page.fill('#push-token', hub.token);
  await page.fill('#keep-name', 'Ahoy | there');
  await expect(studio.get('#push-private')).toBeChecked();
  await studio.get('#push-go').click();
  await expect(studio.get('#push-status')).toHaveText(`Uploaded to ${hub.owner}/ahoy`);
  await expect(studio.get('#push-status a')).toHaveAttribute('href', `${hub.endpoint}/${hub.owner}/ahoy`);
  const pushed = hub.pushed(`${hub.owner}/ahoy`);
  expect([pushed?.visibility, pushed?.history]).toEqual(['private', ['Upload Ahoy | there']]);
  const files = pushed?.files ?? {};
  expect(Object.keys(files).sort()).toEqual(['README.md', 'adapter_config.json', 'adapter_model.safetensors']);
  expect(JSON.parse(String(files['adapter_config.json'])).peft_type).toBe('LORA');
  const card = String(files['README.md']);
  expect(card).toContain('library_name: peft');
  expect(card).toContain(String.raw`# Ahoy \| there`);
  expect(card).toContain('| Rank and alpha |');

  // The name is taken now, which is asked about.
  await studio.get('#push-go').click();
  await expect(studio.get('#push-error')).toHaveText(`There is a repository ${hub.owner}/ahoy already. Choose another name, or add to that one.`);
  await studio.get('#push-update').click();
  await expect(studio.get('#push-status')).toHaveText(`Uploaded to ${hub.owner}/ahoy`);
  expect(hub.pushed(`${hub.owner}/ahoy`)?.history).toHaveLength(2);

  // The token went to the Hub, not to where it sends large files, and is not kept.
  expect(hub.log.filter(({ server, authorization }) => server === 'cdn' && authorization)).toEqual([]);
  expect(hub.log.some(({ server }) => server === 'cdn')).toBe(true);
  expect(await page.evaluate(() => JSON.stringify({ ...localStorage }))).not.toContain(hub.token);
});

test('refusals are said, and an upload can be stopped', async ({ studio, page, hub, open }) => {
  await open();
  const attempt = async (repo: string, token: string) => {
    await page.fill('#push-repo', repo);
    await page.fill('#push-token', token);
    await studio.get('#push-go').click();
  };
  const error = studio.get('#push-error');
  await attempt('ahoy', hub.token);
  await expect(error).toContainText('repo is ahoy, allowed is org/name');
  await attempt(`${hub.owner}/ahoy`, 'secret');
  await expect(error).toContainText('It begins with hf_.');
  await attempt(`${hub.owner}/ahoy`, 'hf_nobody');
  await expect(error).toContainText('The access token is not valid');
  await attempt('other/ahoy', hub.token);
  await expect(error).toContainText('This token may not write to other/ahoy (You don\'t have the rights');
  await attempt(`${hub.owner}/ahoy`, hub.stranger);
  await expect(error).toContainText('It must be one of someone’s, with the right to write.');

  hub.delayMs = 400;
  await attempt(`${hub.owner}/ahoy`, hub.token);
  await expect(studio.get('#push-status')).toContainText('Uploading');
  await studio.get('#push-stop').click();
  await expect(studio.get('#push-status')).toHaveText('Stopped.');
  expect(hub.pushed(`${hub.owner}/ahoy`)?.history).toEqual([]);

  hub.stop();
  await attempt(`${hub.owner}/more`, hub.token);
  await expect(error).toContainText(`${hub.endpoint} cannot be reached`);
});
