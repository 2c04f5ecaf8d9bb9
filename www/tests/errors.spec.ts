/** Whatever goes wrong is said in words, and nothing that was made is lost. */

import { readFile } from 'node:fs/promises';
import { unzipSync } from 'fflate';
import { NO_GPU_FLAGS } from '../chromium.mjs';
import { CHATS, Studio, expect, test } from './studio.js';

test.describe('GPU', () => {
  test('no WebGPU in the browser', async ({ studio }) => {
    await studio.openWith(`Object.defineProperty(navigator, 'gpu', { value: undefined })`);
    await expect(studio.get('#trouble')).toContainText('This browser has no WebGPU.');
    await expect(studio.get('#trouble')).toContainText('Use a current Chrome');
    await expect(studio.get('#device-text')).toHaveText('No GPU in use');
    await expect(studio.get('#model-file-button')).toBeDisabled();
  });

  test('WebGPU, but no adapter', async ({ studio }) => {
    await studio.openWith(`GPU.prototype.requestAdapter = async () => null`);
    await expect(studio.get('#trouble')).toContainText(/no GPU is available: the browser found none/i);
    await expect(studio.get('#trouble')).toContainText('hardware acceleration');
  });

  test('a browser started without any GPU', async ({ playwright, baseURL, launchOptions }) => {
    const browser = await playwright.chromium.launch({ ...launchOptions, args: NO_GPU_FLAGS });
    const page = await browser.newPage(baseURL ? { baseURL } : {});
    await new Studio(page, async () => '').open();
    await expect(page.locator('#trouble')).toBeVisible();
    await browser.close();
  });

  test('lost while training: it goes on; lost again at once: the adapter so far can be downloaded, and all starts again', async ({ studio }) => {
    await studio.openFragile();
    await studio.train(5000);
    const steps = studio.get('#train-steps tr');
    await expect(steps.nth(12)).toBeAttached();
    await studio.fault('lost');
    await expect(studio.get('#train-recovered')).toContainText('The GPU was lost.');
    const told = await steps.count();
    await expect(steps.nth(told + 2)).toBeAttached();
    await expect(steps.nth(told + 2).locator('td').first()).toHaveText(String(told + 3));
    await expect(studio.get('#trouble')).toBeHidden();
    // No checkpoint came between: it is not tried a second time.
    await studio.fault('lost');
    await expect(studio.get('#trouble')).toContainText(/the GPU was lost/i);
    const files = unzipSync(await readFile(await studio.download('#trouble-download')));
    expect(Object.keys(files)).toContain('adapter_model.safetensors');

    await studio.get('#trouble-restart').click();
    await expect(studio.get('#trouble')).toBeHidden();
    await expect(studio.get('#model-ready')).toBeVisible();
    await expect(studio.get('#data-ready')).toBeVisible();
    await expect(studio.get('#after')).toBeVisible();
    expect((await studio.ask('Hi')).tuned).not.toBe('');
  });

  test('lost while another adapter is trained: the first is as it was, and neither needs a hand', async ({ studio, page }) => {
    await studio.openFragile();
    await studio.train(60);
    await expect(studio.get('#train-status')).toContainText('Done after 60 steps');
    await studio.set({ steps: '40' });
    await studio.get('#train-start').click();
    await expect(studio.get('#train-steps tr').nth(12)).toBeAttached();
    await studio.fault('lost');
    await expect(studio.get('#train-recovered')).toContainText('The GPU was lost.');
    await expect(studio.get('#train-status')).toContainText('Done after 40 steps');
    await studio.get('#tab-adapters').click();
    await expect(studio.get('#adapters-list li')).toHaveText([/^examplesrank 8.* 60 steps/, /^examples 2 in userank 8.* 40 steps/]);
    await page.getByRole('button', { name: 'Use: examples', exact: true }).click();
    await expect(studio.get('#adapters-said')).toContainText('examples is in use.');
    expect((await studio.ask('Hi')).tuned).toBe('Ahoy!');
  });

  test('out of memory', async ({ studio }) => {
    await studio.openFragile();
    await studio.train(5000);
    await expect(studio.get('#train-steps tr').nth(12)).toBeAttached();
    await studio.fault('memory');
    await expect(studio.get('#trouble')).toContainText(/not enough GPU memory/i);
    await expect(studio.get('#trouble')).toContainText('smaller batch');
    await studio.download('#trouble-download');
  });

  test('a crash of the engine', async ({ studio }) => {
    await studio.openFragile();
    await studio.train(12);
    await expect(studio.get('#train-status')).toContainText('Done');
    await studio.fault('crash');
    await studio.get('#compare-ask').click();
    await expect(studio.get('#trouble')).toContainText('fault of its own');
    const files = unzipSync(await readFile(await studio.download('#trouble-download')));
    expect(Object.keys(files)).toContain('adapter_model.safetensors');
    await studio.get('#trouble-restart').click();
    await expect(studio.get('#after')).toBeVisible();
    await expect(studio.get('#trouble')).toBeHidden();
  });
});

test.describe('model', () => {
  const gguf = (...parts: (string | bigint | number)[]) =>
    Buffer.concat(
      parts.map((part) => {
        if (typeof part === 'string') return Buffer.from(part);
        const bytes = Buffer.alloc(typeof part === 'bigint' ? 8 : 4);
        if (typeof part === 'bigint') bytes.writeBigUInt64LE(part);
        else bytes.writeUInt32LE(part);
        return bytes;
      }),
    );
  const files: Record<string, Buffer> = {
    'empty.gguf': Buffer.of(),
    'page.gguf': Buffer.from('<!doctype html><title>Not found</title>'),
    'truncated.gguf': gguf('GGUF', 3, 2n, 30n, 20n, 'general.archi'),
    'lying.gguf': gguf('GGUF', 3, 0xffff_ffff_ffff_ffffn, 0xffff_ffff_ffff_ffffn),
  };
  for (const [name, buffer] of Object.entries(files)) {
    test(name, async ({ studio, page }) => {
      await studio.open();
      await page.setInputFiles('#model-file', { name, mimeType: 'application/octet-stream', buffer });
      await expect(studio.get('#model-error')).toContainText(name);
      await expect(studio.get('#model-choices')).toBeVisible();
    });
  }

  for (const [field, value] of [['model_type', 'mamba'], ['hidden_act', 'gelu']] as const) {
    test(`a config with another ${field} is refused by that name`, async ({ studio }) => {
      await studio.open();
      await studio.chooseFolder({ config: { [field]: value } });
      await expect(studio.get('#model-error')).toContainText(field);
      await expect(studio.get('#model-error')).toContainText(value);
    });
  }

  test('a folder without a tokenizer', async ({ studio }) => {
    await studio.open();
    await studio.chooseFolder({ tokenizer: false });
    await expect(studio.get('#model-note')).toContainText('tokenizer.json');
    await studio.giveExamples(CHATS);
    await expect(studio.get('#data-error')).toContainText('tokenizer');
  });
});

test.describe('examples', () => {
  test.beforeEach(async ({ studio }) => {
    await studio.open();
    await studio.loadModel();
  });

  test('an empty file', async ({ studio }) => {
    await studio.giveExamples('');
    await expect(studio.get('#data-error')).toContainText('examples.jsonl');
  });

  test('nothing but broken lines', async ({ studio }) => {
    await studio.giveExamples('{"messages": [\nhello\n');
    await expect(studio.get('#data-error')).toContainText('line 1');
  });

  test('a few broken lines are left out by number, the rest is used', async ({ studio }) => {
    await studio.giveExamples(`${CHATS}\n{"messages": [\n{"colour": "blue"}\n`);
    await expect(studio.get('#data-skipped')).toContainText('Line 5');
    await expect(studio.get('#data-skipped')).toContainText('Line 6');
    await expect(studio.get('#data-facts')).toContainText('Examples4');
  });

  test('examples in which nothing is left to learn', async ({ studio }) => {
    await studio.giveExamples('{"messages": [{"role": "user", "content": "Is anybody there?"}]}\n');
    await expect(studio.get('#data-error')).toContainText('line 1');
  });

  test('markup in examples stays text', async ({ studio }) => {
    const content = '<img src=x onerror="document.title=1">';
    await studio.giveExamples(JSON.stringify({ text: content }));
    await expect(studio.get('#data-preview')).toContainText(content);
    await expect(studio.get('#data-preview img')).toHaveCount(0);
  });
});

test('settings that make no sense are refused by the field', async ({ studio }) => {
  await studio.open();
  await studio.loadModel();
  await studio.giveExamples(CHATS);
  await expect(studio.get('#data-ready')).toBeVisible();
  await studio.set({});
  const refused: Record<string, string> = {
    steps: '0',
    batchSize: '-1',
    learningRate: '1e9',
    r: '100000',
    loraAlpha: 'many',
    seed: '1.5',
    maxLength: '',
  };
  for (const [name, value] of Object.entries(refused)) {
    const input = studio.get(`#setting-${name}`);
    const before = await input.inputValue();
    await studio.set({ [name]: value });
    await studio.get('#train-start').click();
    await expect(studio.get(`#setting-${name}-error`), name).toContainText('allowed is');
    await expect(input).toBeFocused();
    await expect(input).toHaveAttribute('aria-invalid', 'true');
    await input.fill(before);
  }
});

test('a zip that is none is refused', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  const wrong = { name: 'adapter.zip', mimeType: 'application/zip', buffer: Buffer.from('not a zip at all') };
  await page.setInputFiles('#keep-zip', wrong);
  await expect(studio.get('#keep-error')).toContainText('adapter.zip');
});
