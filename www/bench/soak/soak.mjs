/**
 * A thousand steps of a tiny chat model, or `STEPS`, must cost what the first ones cost, in time and in memory: natively, as
 * `cargo bench --bench soak` tells it on standard input, then in headless Chromium through the package. Called by
 * `make soak`; writes target/soak.json.
 */

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from '@playwright/test';
import { createServer } from 'vite';
import { CHROMIUM, CHROMIUM_FLAGS } from '../../chromium.mjs';
import { median, printTable } from '../report.mjs';

const STEPS = Number(process.env.STEPS ?? 1000);
const HUNDRED = 100;
/** The last hundred's time against the first's. */
const TOLERANCE = 0.05;

const [www, root] = ['../../', '../../../'].map((folder) => fileURLToPath(new URL(folder, import.meta.url)));
const FIXTURES = `${root}tests/fixtures/`;
const MODEL = [
  'golden/llama-gqa-tied/config.json',
  'golden/llama-gqa-tied/model.safetensors',
  'tiny-chat/tokenizer.json',
  'tiny-chat/tokenizer_config.json',
].map((name) => FIXTURES + name);
const EXAMPLES = `${www}public/samples/pirate.jsonl`;

/**
 * Of a hundred steps: their milliseconds, and what there was at their end.
 * @typedef {{ ms: number[], gpuBytes: number, made: number, wasmBytes?: number }} Hundred
 */

async function native() {
  const lines = [];
  for await (const line of createInterface(process.stdin)) lines.push(JSON.parse(line));
  const [{ device }, ...hundreds] = lines;
  return { device, hundreds };
}

async function browser() {
  const server = await createServer({
    root: www,
    configFile: false,
    logLevel: 'error',
    // Those of the worker too, which are not found from the page.
    optimizeDeps: { entries: 'bench/soak/index.html', include: ['@noble/hashes/legacy.js', '@noble/hashes/sha2.js'] },
    server: { port: 8326, watch: null },
  });
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });
  try {
    await server.listen();
    const page = await browser.newPage();
    page.on('pageerror', (error) => console.error(error));
    const watch = await readFile(new URL('watch.js', import.meta.url), 'utf8');
    await page.route('**/dist/worker.js*', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `{${watch}}\n${await response.text()}` });
    });
    await page.goto(new URL('bench/soak/', server.resolvedUrls?.local[0]).href);
    await page.setInputFiles('#model', MODEL);
    await page.setInputFiles('#examples', EXAMPLES);
    await page.waitForFunction(() => globalThis.soak);
    const { device, seen } = await page.evaluate((steps) => globalThis.soak(steps), STEPS);
    return { device, chromium: browser.version(), hundreds: hundreds(seen) };
  } finally {
    await browser.close();
    await server.close();
  }
}

/** @param {{ time: number, gpuBytes: number, made: number, wasmBytes: number }[]} seen @returns {Hundred[]} */
function hundreds(seen) {
  const ms = seen.slice(1).map(({ time }, at) => time - seen[at].time);
  return Array.from({ length: seen.length / HUNDRED }, (_, at) => {
    const end = (at + 1) * HUNDRED;
    const { time: _time, ...state } = seen[end - 1];
    // Nothing tells when the first step began.
    return { ms: ms.slice(Math.max(end - HUNDRED - 1, 0), end - 1), ...state };
  });
}

/** Prints what was seen; true if all is flat. @param {string} name @param {string} device @param {Hundred[]} hundreds */
function judge(name, device, hundreds) {
  if (hundreds.length !== STEPS / HUNDRED) throw new Error(`${name}: ${hundreds.length} hundreds of steps`);
  const [first, last] = [hundreds[0], hundreds[hundreds.length - 1]];
  console.log(`\n${name}, ${device}`);
  printTable([
    ['steps', 'median ms', 'GPU bytes', 'made since', 'wasm bytes'],
    ...hundreds.map(({ ms, gpuBytes, made, wasmBytes = '-' }, at) => [
      `${at * HUNDRED + 1} to ${(at + 1) * HUNDRED}`,
      median(ms).toFixed(2),
      String(gpuBytes),
      String(made - first.made),
      String(wasmBytes),
    ]),
  ]);
  const ratio = median(last.ms) / median(first.ms);
  const { ms: _ms, ...state } = first;
  const verdicts = [
    [`last hundred at ${ratio.toFixed(3)} of the first`, Math.abs(ratio - 1) <= TOLERANCE],
    ...Object.keys(state).map((key) => [`${key} flat`, hundreds.every((hundred) => hundred[key] === first[key])]),
  ];
  for (const [what, holds] of verdicts) console.log(`${holds ? 'ok  ' : 'FAIL'}  ${what}`);
  return verdicts.every(([, holds]) => holds);
}

const soaks = {};
for (const [name, run] of Object.entries({ native, browser })) {
  const soak = await run();
  const flat = judge(name, soak.device, soak.hundreds);
  soaks[name] = { ...soak, flat };
  if (!flat) process.exitCode = 1;
}
await mkdir(`${root}target`, { recursive: true });
const date = new Date().toISOString().slice(0, 10);
await writeFile(`${root}target/soak.json`, `${JSON.stringify({ date, ...soaks }, null, 2)}\n`);
