/** Models of other kinds than the tiny one: what the page offers follows the model. */

import { FIXTURES, expect, test } from './studio.js';

test('a model with linears of its own names, and then one with others', async ({ studio, page }) => {
  await studio.open();
  await page.setInputFiles('#model-folder', `${FIXTURES}golden/gpt2`);
  await expect(studio.get('#model-ready')).toBeVisible();
  const targets = studio.get('#setting-targetModules label');
  await expect(targets).toHaveText(['c_attn', 'c_proj', 'c_fc']);

  await studio.get('#model-change').click();
  await page.setInputFiles('#model-folder', `${FIXTURES}golden/phi3-fused`);
  await expect(targets).toHaveText(['qkv_proj', 'o_proj', 'gate_up_proj', 'down_proj']);
  await expect(studio.get('#setting-targetModules input:checked')).toHaveCount(4);
});

test('weights made smaller, and what that costs', async ({ studio, page }) => {
  await studio.open();
  await studio.showModels();
  await page.getByText('Make it smaller').click();
  await page.selectOption('#model-quantize', 'q8_0');
  await page.setInputFiles('#model-folder', `${FIXTURES}golden/llama3-ropescaled-untied`);
  await expect(studio.get('#model-facts')).toContainText('Q8_0');
  await expect(studio.get('#model-facts')).toContainText(/Made into Q8_0\s*off by 0\.\d %/);
});
