/** Norms and biases that are trained with an adapter, by the page's settings. */

import { readFile } from 'node:fs/promises';
import { unzipSync } from 'fflate';
import { CHATS, expect, test } from './studio.js';

test('norms are trained where that is ticked, and are the base’s again at strength 0', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  await studio.giveExamples(CHATS);
  await expect(studio.get('#data-ready')).toBeVisible();
  await studio.set({ steps: '3', learningRate: '0.01', warmupSteps: '0' });
  await studio.unfold();
  await page.check('#setting-modulesToSave');
  await page.selectOption('#setting-bias', 'all');
  await studio.get('#train-start').click();
  await expect(studio.get('#train-status')).toContainText('Done after 3 steps');

  const files = unzipSync(await readFile(await studio.download('#keep-download')));
  const text = (name: string) => new TextDecoder().decode(files[name]);
  const { bias, modules_to_save } = JSON.parse(text('adapter_config.json'));
  expect({ bias, modules_to_save }).toEqual({ bias: 'all', modules_to_save: ['input_layernorm', 'norm', 'post_attention_layernorm'] });
  expect(text('adapter_model.safetensors')).toContain('base_model.model.model.layers.2.input_layernorm.weight');
  expect(text('README.md')).toContain('Trained norms');

  await studio.get('#tab-chat').click();
  await page.fill('#strength', '0');
  const { base, tuned } = await studio.ask('Hi');
  expect(tuned).toBe(base);
});
