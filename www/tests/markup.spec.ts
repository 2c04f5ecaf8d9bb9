/** Markup in any string that comes from outside is shown as it is written: nothing of it becomes part of the page. */

import { mkdir, writeFile } from 'node:fs/promises';
import { HubServer } from './hub-server.js';
import { expect, test, tinyModel } from './studio.js';

/** Has none of what file names may not have, and would run in any of the usual ways of showing it. */
const MARKUP = `"'><img src=x onerror=ran()><svg onload=ran()>`;
/** Of the tokenizer's 311 the last, which then is markup. */
const TOKEN = 310;

interface Watched {
  refused: string[];
}

/** The tiny model with a token that is markup, and a template that fails with it where a message says so. */
async function hostileModel(): Promise<Record<string, string | Buffer>> {
  const files = await tinyModel();
  const tokenizer = JSON.parse(String(files['tokenizer.json']));
  const { vocab } = tokenizer.model;
  const [last = ''] = Object.keys(vocab).filter((token) => vocab[token] === TOKEN);
  delete vocab[last];
  const made = (merge: string | string[]) => (Array.isArray(merge) ? merge : merge.split(' ')).join('');
  tokenizer.model.merges = tokenizer.model.merges.filter((merge: string | string[]) => made(merge) !== last);
  tokenizer.added_tokens.push({ ...tokenizer.added_tokens[0], id: TOKEN, content: MARKUP, special: false });
  const config = JSON.parse(String(files['tokenizer_config.json']));
  const fails = `{% if 'fail' in messages[0]['content'] %}{{ raise_exception(${JSON.stringify(MARKUP)}) }}{% endif %}`;
  return {
    ...files,
    'tokenizer.json': JSON.stringify(tokenizer),
    'tokenizer_config.json': JSON.stringify({ ...config, chat_template: fails + config.chat_template }),
  };
}

test('markup stays text, wherever it comes from', async ({ studio, page }, info) => {
  await page.addInitScript(() => {
    const refused: string[] = [];
    document.addEventListener('securitypolicyviolation', ({ effectiveDirective, sample }) => void refused.push(`${effectiveDirective} ${sample}`));
    Object.assign(globalThis, { refused, ran: () => refused.push('it ran') });
  });
  const said: string[] = [];
  page.on('console', (message) => /onerror|Content Security Policy|Trusted/.test(message.text()) && said.push(message.text()));
  page.on('dialog', (dialog) => said.push(dialog.message()));
  const shown = (selector: string) => expect(studio.get(selector).first()).toContainText(MARKUP, { timeout: 170_000 });
  const file = (name: string, text: string) => ({ name, mimeType: 'text/plain', buffer: Buffer.from(text) });

  // What the Hub says.
  const hub = await HubServer.start();
  hub.add('some/markup', { ...(await tinyModel()), [`${MARKUP}.gguf`]: Buffer.from('none') }, { license: MARKUP });
  await page.route('**/api/models/some/refused/**', (route) =>
    route.fulfill({ status: 403, headers: { 'X-Error-Message': MARKUP, 'Access-Control-Allow-Origin': '*', 'Access-Control-Expose-Headers': '*' } }),
  );
  await page.goto(`/?hub=${hub.endpoint}`);
  await expect(studio.get('#device')).toHaveAttribute('data-state', 'software');
  await studio.unfold();
  await page.fill('#hub-name', `some/markup@${MARKUP}`);
  await page.keyboard.press('Enter');
  await shown('#hub-error');
  await page.fill('#hub-name', 'some/refused');
  await page.keyboard.press('Enter');
  await shown('#hub-error');
  await page.fill('#hub-name', 'some/markup');
  await page.keyboard.press('Enter');
  await shown('#hub-facts');
  await shown('#hub-files');
  await page.getByRole('radio', { name: MARKUP }).check();
  await shown('#hub-error');

  hub.stop();

  // A model's files: names, metadata, template, tokens.
  await page.setInputFiles('#model-file', file(`${MARKUP}.gguf`, 'GGUF'));
  await shown('#model-error');
  const folder = info.outputPath(MARKUP);
  await mkdir(folder, { recursive: true });
  const model = await hostileModel();
  for (const [name, contents] of Object.entries(model)) await writeFile(`${folder}/${name}`, contents);
  const config = JSON.parse(String(model['config.json']));
  await writeFile(`${folder}/config.json`, JSON.stringify({ ...config, model_type: MARKUP }));
  await page.setInputFiles('#model-folder', folder);
  await shown('#model-error');
  await writeFile(`${folder}/config.json`, JSON.stringify(config));
  await page.setInputFiles('#model-folder', folder);
  await expect(studio.get('#model-ready')).toBeVisible();

  // Examples: columns, broken lines, what the template says of them, and they themselves.
  await page.setInputFiles('#data-file', file(`${MARKUP}.csv`, `${JSON.stringify(MARKUP).replaceAll('\\"', '""')},b\n1,2\n`));
  await shown('#mapping-columns');
  const chat = (question: string) => JSON.stringify({ messages: [{ role: 'user', content: question }, { role: 'assistant', content: MARKUP }] });
  await page.setInputFiles('#data-file', file(`${MARKUP}.jsonl`, [chat('Hi'), chat('Hey'), chat('fail'), JSON.stringify({ [MARKUP]: 1 })].join('\n')));
  for (const place of ['#data-name', '#data-preview', '#data-skipped-lines']) await shown(place);

  // A training, its samples, its run; and the settings of one, from a file.
  await studio.unfold();
  await studio.set({ steps: '40', learningRate: '0.02', samplePrompts: MARKUP });
  await studio.get('#train-start').click();
  await shown('#train-samples-list');
  await expect(studio.get('#train-status')).toContainText('Done', { timeout: 90_000 });
  await studio.get('#runs-open').click();
  await shown('#runs-list');
  const settings = { data: { options: {} }, training: { steps: MARKUP, samplePrompts: [MARKUP] }, adapter: { targetModules: [MARKUP] } };
  await page.setInputFiles('#runs-config', file('settings.json', JSON.stringify(settings)));
  await expect(studio.get('#setting-samplePrompts')).toHaveValue(MARKUP);

  // What is asked, and what the model says.
  await page.check('#certainty');
  const { tuned } = await studio.ask(MARKUP);
  expect(tuned).toContain(MARKUP);
  await shown('.turn .said');
  await studio.get('#tab-export').click();
  await page.fill('#keep-name', MARKUP);
  await page.setInputFiles('#keep-zip', file(`${MARKUP}.zip`, 'none'));
  await shown('#keep-error');

  expect(await page.evaluate(() => document.querySelectorAll('[onerror], [onload], img[src=x], body svg:empty').length)).toBe(0);
  expect(await page.evaluate(() => (globalThis as unknown as Watched).refused)).toEqual([]);
  expect(said).toEqual([]);
});
