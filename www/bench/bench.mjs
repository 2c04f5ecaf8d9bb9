/**
 * What this machine makes of SmolLM2, natively and in headless Chromium: products, training steps, generation. Called by
 * `make bench`, with both built. The crate measures and prints (src/bench.rs); here both halves are started, one after
 * the other, and their reports merged into target/bench.json.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { chromium } from '@playwright/test';
import sirv from 'sirv';
import { CHROMIUM, CHROMIUM_FLAGS, GPU_FLAGS } from '../chromium.mjs';
import { merge, printRatios } from './report.mjs';

const target = fileURLToPath(new URL('../../target/', import.meta.url));
const MODEL = process.env.SMOLLM2_GGUF ?? '';
/** Rows of the products: those of a usual pass, fewer where they would take minutes. */
const [TOKENS, TOKENS_ON_SOFTWARE] = [512, 128];

/** What both halves measure. @typedef {{ steps: Record<string, any>[] }} Report */

/** @returns {Promise<Report>} */
async function native() {
  const bench = spawn('cargo', ['bench', '--quiet', '--bench', 'bench'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [json, [status]] = await Promise.all([text(bench.stdout), once(bench, 'close')]);
  if (status !== 0) throw new Error(`the native half ended with ${status}`);
  return JSON.parse(json);
}

/** The wasm built for measuring, and the models' files. */
function serve() {
  const folders = { pkg: `${target}bench-pkg`, gguf: path.dirname(MODEL), f16: `${target}bench/f16` };
  const handlers = Object.entries(folders).map(([name, folder]) => [`/${name}/`, sirv(folder, { dev: true })]);
  const server = createServer((request, response) => {
    const [prefix, handler] = handlers.find(([prefix]) => request.url?.startsWith(prefix)) ?? [];
    if (!handler) return void response.setHeader('content-type', 'text/html').end('<!doctype html><link rel="icon" href="data:,">');
    request.url = request.url.slice(prefix.length - 1);
    handler(request, response);
  });
  server.listen(0, 'localhost');
  return server;
}

/** A browser on the machine's GPU, or on SwiftShader where none answers. @param {string} url */
async function open(url) {
  for (const args of [GPU_FLAGS, CHROMIUM_FLAGS]) {
    const browser = await chromium.launch({ executablePath: CHROMIUM, args });
    const page = await browser.newPage();
    await page.goto(url);
    const software = args === CHROMIUM_FLAGS;
    // The page is told what wasm is not: who made the adapter.
    const adapter = await page.evaluate(async () => {
      const adapter = await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance' });
      if (!adapter) return { name: '', fallback: true };
      const { vendor, architecture, isFallbackAdapter } = adapter.info;
      return { name: `${vendor} ${architecture}`, fallback: isFallbackAdapter };
    });
    if (software || !adapter.fallback) {
      return { browser, page, adapter: adapter.name, tokens: software ? TOKENS_ON_SOFTWARE : TOKENS };
    }
    await browser.close();
  }
  throw new Error('unreachable: the last flags are taken as they are');
}

/** Runs in the page. @param {{ models: string[][], tokens: number }} asked @returns {Promise<Report>} */
async function measure({ models, tokens }) {
  const file = async (/** @type {string} */ url) => {
    const blob = await (await fetch(url)).blob();
    const read = async (/** @type {number} */ offset, /** @type {number} */ length) =>
      new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
    return { name: url, size: blob.size, read };
  };
  const wasm = await import('/pkg/web_lora.js');
  await wasm.default();
  const [first, second] = await Promise.all(models.map((urls) => Promise.all(urls.map(file))));
  try {
    return await wasm.benchmark(first, second, tokens, (/** @type {string} */ line) => console.log(line));
  } catch (error) {
    throw new Error(error.message ?? error);
  }
}

/** @returns {Promise<Report>} */
async function inChromium() {
  const server = serve();
  await once(server, 'listening');
  const { browser, page, adapter, tokens } = await open(`http://localhost:${server.address().port}/`);
  try {
    console.error(`\nChromium ${browser.version()}, ${adapter}`);
    page.on('console', (message) => console.error(message.text()));
    const models = [[`/gguf/${path.basename(MODEL)}`], ['/f16/config.json', '/f16/model.safetensors']];
    return { chromium: browser.version(), adapter, ...(await page.evaluate(measure, { models, tokens })) };
  } finally {
    await browser.close();
    server.close();
  }
}

/** The longest steps, in Q4_1 and in F16. @param {Report} report */
function longest({ steps }) {
  return steps.slice(-2);
}

const date = new Date().toISOString().slice(0, 10);
const onDevice = { date, ...(await native()) };
const inBrowser = { date, ...(await inChromium()) };
const [q4, f16] = longest(onDevice);
const ratios = {
  step_efficiency_native: q4.efficiency,
  step_efficiency_chromium: longest(inBrowser)[0].efficiency,
  q4_step_over_f16_step: q4.ms / f16.ms,
  planned_over_allocated: q4.planned_bytes / q4.allocated_bytes,
  dispatches_per_layer: q4.dispatches_per_layer,
};
await merge(ratios, 'bench', { native: onDevice, chromium: inBrowser });
console.log();
printRatios(ratios);
