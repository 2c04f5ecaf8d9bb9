/** What the specs share: the page with the tiny model at hand, and a worker into which faults can be put. */

import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { expect, test as base, type Locator, type Page } from '@playwright/test';

export const FIXTURES = fileURLToPath(new URL('../../tests/fixtures/', import.meta.url));
const WEIGHTS = ['config.json', 'model.safetensors'].map((name) => [`${FIXTURES}golden/llama-gqa-tied/${name}`, name] as const);
const TOKENIZER = ['tokenizer.json', 'tokenizer_config.json'].map((name) => [`${FIXTURES}tiny-chat/${name}`, name] as const);
/** The tiny model's folder: where its files lie, and their names. */
export const MODEL_FILES = [...WEIGHTS, ...TOKENIZER];

/** The same, by name. */
export async function tinyModel(): Promise<Record<string, Buffer>> {
  return Object.fromEntries(await Promise.all(MODEL_FILES.map(async ([from, name]) => [name, await readFile(from)])));
}

/** Four chats with one answer: a model of any size learns it: each letter follows from the one before. */
export const CHATS = ['Hi', 'Hey', 'Hello', 'Howdy']
  .map((greeting) => [
    { role: 'user', content: greeting },
    { role: 'assistant', content: 'Ahoy!' },
  ])
  .map((messages) => JSON.stringify({ messages }))
  .join('\n');

/** Makes a GPU fail, from inside the worker, when a message on the channel `fault` says so. */
const FAULTS = `
const devices = [];
const requestDevice = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await requestDevice.apply(this, args);
  devices.push(device);
  return device;
};
new BroadcastChannel('fault').onmessage = ({ data }) => {
  for (const device of devices.splice(0)) {
    if (data === 'lost') device.destroy();
    if (data === 'memory') {
      const error = new GPUOutOfMemoryError('put in by a test');
      device.dispatchEvent(new GPUUncapturedErrorEvent('uncapturederror', { error }));
    }
    if (data === 'crash') device.createCommandEncoder = () => { throw new RangeError('put in by a test'); };
  }
};
`;

interface FolderChange {
  tokenizer?: boolean;
  config?: Record<string, unknown>;
}

/** The page as a person works it. */
export class Studio {
  readonly page: Page;
  readonly #folder: (change: FolderChange) => Promise<string>;

  constructor(page: Page, folder: (change: FolderChange) => Promise<string>) {
    this.page = page;
    this.#folder = folder;
  }

  /** Opens the page and waits until it has said which GPU there is, or that there is none. */
  async open(): Promise<void> {
    await this.page.goto('/');
    await expect(this.get('#device')).not.toHaveAttribute('data-state', 'waiting');
  }

  /** As `open`, with code that runs in the worker before the engine. */
  async openWith(workerCode: string): Promise<void> {
    await this.page.route('**/assets/worker-*.js', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `${workerCode};${await response.text()}` });
    });
    await this.open();
  }

  /** As `open`, with a GPU that `fault` can break. */
  async openFragile(): Promise<void> {
    await this.openWith(FAULTS);
  }

  async fault(kind: 'lost' | 'memory' | 'crash'): Promise<void> {
    await this.page.evaluate((kind) => new BroadcastChannel('fault').postMessage(kind), kind);
  }

  get(selector: string): Locator {
    return this.page.locator(selector);
  }

  /** Chooses the tiny model's folder, without its tokenizer or with other values in its config.json. */
  async chooseFolder(change: FolderChange = {}): Promise<void> {
    await this.page.setInputFiles('#model-folder', await this.#folder(change));
  }

  async loadModel(): Promise<void> {
    await this.chooseFolder();
    await expect(this.get('#model-ready')).toBeVisible();
  }

  async giveExamples(text: string): Promise<void> {
    const file = { name: 'examples.jsonl', mimeType: 'application/jsonl', buffer: Buffer.from(text) };
    await this.page.setInputFiles('#data-file', file);
  }

  /** Opens every fold. */
  async unfold(): Promise<void> {
    await this.get('details').evaluateAll((folds) => {
      for (const fold of folds) if (fold instanceof HTMLDetailsElement) fold.open = true;
    });
  }

  async set(settings: Record<string, string>): Promise<void> {
    if (!(await this.get('#settings-fields').isVisible())) await this.get('#settings > summary').click();
    for (const [name, value] of Object.entries(settings)) await this.page.fill(`#setting-${name}`, value);
  }

  /** Loads the tiny model and the chats, and starts training: 100 steps learn the answer by heart. */
  async train(steps: number): Promise<void> {
    await this.loadModel();
    await this.giveExamples(CHATS);
    await expect(this.get('#data-ready')).toBeVisible();
    await this.set({ steps: String(steps), learningRate: '0.01', warmupSteps: '5', r: '8', loraAlpha: '8' });
    await this.get('#train-start').click();
  }

  /** The losses in the table of steps. */
  async losses(): Promise<number[]> {
    return (await this.get('#train-steps tr td:nth-child(2)').allTextContents()).map(Number);
  }

  /** Of the question that was asked last. */
  answer(side: 'base' | 'tuned'): Locator {
    return this.get(`.turn:last-child [data-side=${side}]`);
  }

  /** Opens the list of other models than the one that is offered. */
  async showModels(): Promise<void> {
    await this.get('#model-more').evaluate((fold: HTMLDetailsElement) => (fold.open = true));
  }

  async ask(prompt: string): Promise<{ base: string; tuned: string }> {
    await this.get('#tab-chat').click();
    await this.page.fill('#prompt', prompt);
    const before = await this.get('.turn').count();
    await this.get('#compare-ask').click();
    // An answer may be there sooner than anyone can look.
    await expect(this.get('.turn')).toHaveCount(before + 1);
    await expect(this.get('#turns')).toHaveAttribute('aria-busy', 'false');
    return { base: await this.answer('base').innerText(), tuned: await this.answer('tuned').innerText() };
  }

  /** Presses a button that downloads, and says where the file lies. */
  async download(selector: string): Promise<string> {
    if (selector === '#keep-download') await this.get('#tab-export').click();
    const coming = this.page.waitForEvent('download');
    await this.get(selector).click();
    return (await coming).path();
  }
}

/** Every test runs under this watch: nothing may be asked of another host, and the page may not throw. */
export const test = base.extend<{ studio: Studio }>({
  studio: async ({ page }, use, info) => {
    const strayed: string[] = [];
    const thrown: Error[] = [];
    page.context().on('request', (request) => {
      const { protocol, hostname } = new URL(request.url());
      if (protocol.startsWith('http') && hostname !== 'localhost') strayed.push(request.url());
    });
    page.on('pageerror', (error) => thrown.push(error));
    const folder = async ({ tokenizer = true, config = {} }: FolderChange) => {
      const target = info.outputPath('tiny-chat');
      await mkdir(target, { recursive: true });
      for (const [from, name] of tokenizer ? MODEL_FILES : WEIGHTS) await copyFile(from, `${target}/${name}`);
      const whole = JSON.parse(await readFile(`${target}/config.json`, 'utf8'));
      await writeFile(`${target}/config.json`, JSON.stringify({ ...whole, ...config }));
      return target;
    };
    await use(new Studio(page, folder));
    expect(strayed).toEqual([]);
    expect(thrown).toEqual([]);
  },
});

export { expect };
