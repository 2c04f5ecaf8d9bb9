/**
 * The browser is killed at random moments of a run that is kept; each time it is opened again and the run goes on. In
 * the end the adapter, the curve and the samples are those of a run that was never cut off. `KILLS` says how often,
 * `SEED` when.
 */

import { spawn, type ChildProcess } from 'node:child_process';
import { copyFile, mkdir, readFile, rm } from 'node:fs/promises';
import { createServer, type ViteDevServer } from 'vite';
import { fileURLToPath } from 'node:url';
import { chromium, expect, test, type Browser, type Page } from '@playwright/test';
import sirv from 'sirv';
import { CHROMIUM, FAST_FLAGS } from '../chromium.mjs';
import { CHATS, MODEL_FILES } from './studio.js';

const KILLS = Number(process.env.KILLS ?? 3);
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e6));
/** Steps that an attempt may make before it is killed: by steps, as a busy machine makes none in any given time. */
const MOST_STEPS = 10;
/** From there on, to be anywhere in a step and in what is saved after it; and from the beginning, where no step is waited for. */
const LONGEST_WAIT_MS = { step: 400, beginning: 3000 };

const www = fileURLToPath(new URL('..', import.meta.url));
let server: ViteDevServer;
let folder: string;
let victim: Victim | undefined;

test.beforeAll(async ({}, info) => {
  folder = info.outputPath('kills');
  await mkdir(`${folder}/model`, { recursive: true });
  for (const [from, name] of MODEL_FILES) await copyFile(from, `${folder}/model/${name}`);
  server = await createServer({
    root: www,
    // A file that is not there is a 404, never a page.
    appType: 'mpa',
    configFile: false,
    cacheDir: '../.cache/vite-kills',
    logLevel: 'error',
    plugins: [{ name: 'model', configureServer: ({ middlewares }) => void middlewares.use('/model', sirv(`${folder}/model`, { dev: true })) }],
    // Those of the worker too, which are not found from the page.
    optimizeDeps: { entries: 'tests/kills/index.html', include: ['fflate', '@noble/hashes/legacy.js', '@noble/hashes/sha2.js'] },
    server: { port: 8328, watch: null },
  });
  await server.listen();
});
test.afterAll(async () => {
  await victim?.kill();
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

/** What the page offers. */
interface Remote {
  page: Record<string, (argument?: string) => unknown>;
}

/** A browser of its own, whose storage outlives it. */
class Victim {
  private constructor(
    readonly process: ChildProcess,
    readonly browser: Browser,
    readonly page: Page,
  ) {}

  static async open(): Promise<Victim> {
    const profile = `${folder}/profile`;
    // Where the browser says which port it listens on; the one before said so too.
    const portFile = `${profile}/DevToolsActivePort`;
    await rm(portFile, { force: true });
    const flags = [...FAST_FLAGS, '--headless', '--remote-debugging-port=0', `--user-data-dir=${profile}`];
    const process = spawn(CHROMIUM, [...flags, 'about:blank'], { detached: true, stdio: 'ignore' });
    let port = '';
    await expect(async () => void ([port = ''] = (await readFile(portFile, 'utf8')).split('\n'))).toPass();
    const browser = await chromium.connectOverCDP(`http://127.0.0.1:${port}`);
    const [context] = browser.contexts();
    if (!context) throw new Error('the browser has no window');
    const page = context.pages()[0] ?? (await context.newPage());
    await page.goto(new URL('tests/kills/', server.resolvedUrls?.local[0]).href);
    await page.waitForFunction(() => 'page' in globalThis);
    return new Victim(process, browser, page);
  }

  call<Result>(name: string, argument?: string): Promise<Result> {
    const run = ([name, argument]: readonly [string, string | undefined]) => (globalThis as unknown as Remote).page[name]?.(argument);
    return this.page.evaluate(run, [name, argument] as const) as Promise<Result>;
  }

  /** Waits until so many steps were told, or the browser is gone. */
  async stepped(count: number): Promise<void> {
    const told = (count: number) => Number((globalThis as unknown as Remote).page.told?.()) >= count;
    await this.page.waitForFunction(told, count).catch(() => undefined);
  }

  /** All its processes at once, without a word. */
  async kill(): Promise<void> {
    const gone = new Promise((resolve) => this.process.once('exit', resolve));
    process.kill(-(this.process.pid as number), 'SIGKILL');
    await gone;
    await this.browser.close().catch(() => undefined);
  }
}

/** The same numbers from 0 to 1 for the same seed (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), seed | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

test(`a run that is killed ${KILLS} times ends as if it had not been`, async () => {
  test.setTimeout(120_000 + KILLS * 30_000);
  const next = random(SEED);
  victim = await Victim.open();
  await victim.call('start', CHATS);
  const whole = await newest(victim);
  const expected = await victim.call<unknown>('outcome', whole?.id);

  let kills = 0;
  let rounds = 0;
  /** Seconds from one kill to the next, and the step that was kept. */
  const table: { kill: number; seconds: number; keptStep: number; of: string }[] = [];
  let since = performance.now();
  for (; kills < KILLS; rounds += 1) {
    // The first attempt starts the run, all others go on with it.
    let run: Run | undefined;
    while (run?.status !== 'done') {
      const going = victim.call(run ? 'resume' : 'start', run?.id ?? CHATS).then(
        () => 'ended',
        () => 'cut off',
      );
      const [steps, share] = [Math.floor(next() * MOST_STEPS), next()];
      const ms = share * LONGEST_WAIT_MS[steps > 0 ? 'step' : 'beginning'];
      const moment = victim.stepped(steps).then(() => new Promise((resolve) => setTimeout(resolve, ms)));
      if (kills < KILLS && (await Promise.race([going, moment])) !== 'ended') {
        await victim.kill();
        kills += 1;
        victim = await Victim.open();
      } else {
        expect(await going).toBe('ended');
      }
      const last = await newest(victim);
      if (last?.id !== whole?.id) run = last;
      if (run) expect(['interrupted', 'done']).toContain(run.status);
      if (kills > table.length) {
        const seconds = Math.round((performance.now() - since) / 100) / 10;
        table.push({ kill: kills, seconds, keptStep: run?.step ?? 0, of: run ? run.status : 'nothing kept yet' });
        since = performance.now();
      }
    }
    expect(await victim.call('outcome', run.id), `seed ${SEED}`).toEqual(expected);
    expect(await victim.call('unsaved')).toEqual([]);
    await victim.call('remove', run.id);
  }
  console.table(table);
  const places = new Set(table.map((row) => row.keptStep));
  // A run is kept at some forty steps.
  expect(places.size, 'places at which it was killed').toBeGreaterThan(Math.min(KILLS, 100) / 10);
  const seconds = table.map((row) => row.seconds).sort((a, b) => a - b);
  console.log(`seconds a kill: median ${seconds[seconds.length >> 1]}, longest ${seconds.at(-1)}`);
  console.log(`${kills} kills in ${rounds} runs, seed ${SEED}: each ended in the bytes of the run that was left alone`);
});

interface Run {
  id: string;
  status: string;
  step: number;
}

async function newest(victim: Victim): Promise<Run | undefined> {
  return (await victim.call<Run[]>('list'))[0];
}
