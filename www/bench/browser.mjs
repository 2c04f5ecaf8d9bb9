/**
 * web-lora beside jax-js and TensorFlow.js, in turn in one page of headless Chromium: products of a layer, then
 * training steps of the same model from the same adapter. Called by `make bench-peers`.
 */

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { chromium } from '@playwright/test';
import sirv from 'sirv';
import { createServer } from 'vite';
import { CHROMIUM, CHROMIUM_FLAGS } from '../chromium.mjs';
import { FOLDER, writeModel } from './model.mjs';
import { median, merge, printRatios, printTable } from './report.mjs';
import { CONFIG, LORA, PRODUCTS, STEP_LABEL, TOKENS } from './shapes.mjs';

const OURS = 'web-lora';
const PEERS = { 'jax-js': '@jax-js/jax', tfjs: '@tensorflow/tfjs' };
const NAMES = [...Object.keys(PEERS), OURS];
const PRODUCT_ROUNDS = 5;
/** Products of one shape in a row. */
const REPEATS = 3;
const STEP_ROUNDS = 5;
/** Between programs in f32 that add in different orders. */
const TOLERANCE = 1e-3;

/** @typedef {import('@playwright/test').Page} Page */

const here = fileURLToPath(new URL('.', import.meta.url));

function serve() {
  const serveModel = sirv(FOLDER, { dev: true });
  return createServer({
    root: `${here}page`,
    configFile: false,
    logLevel: 'error',
    cacheDir: `${here}node_modules/.vite`,
    plugins: [{ name: 'model', configureServer: ({ middlewares }) => void middlewares.use('/model', serveModel) }],
    // Bundled before the page asks: found later, they would reload it.
    optimizeDeps: {
      include: [
        '@jax-js/jax',
        '@tensorflow/tfjs',
        '@tensorflow/tfjs-backend-webgpu',
        '@noble/hashes/legacy.js',
        '@noble/hashes/sha2.js',
      ],
    },
    server: { port: 8325, fs: { allow: [`${here}..`, fileURLToPath(new URL('../../target/bench-pkg', import.meta.url))] }, watch: null },
  });
}

/** Milliseconds of each product. @param {Page} page @param {string} name */
function products(page, name) {
  return page.evaluate(([name, repeats]) => globalThis.bench.products(name, repeats), [name, REPEATS]);
}

/** @param {Page} page */
function oursMatmul(page) {
  return products(page, OURS);
}

/** Each contender's numbers, by product or step, from turns taken one after the other. */
async function inTurn(rounds, take) {
  const taken = Object.fromEntries(NAMES.map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const name of NAMES) taken[name].push(await take(name));
  }
  return taken;
}

/** Throws unless all of `values` are nearly one. @param {string} what @param {number[]} values */
function agree(what, values) {
  const apart = (Math.max(...values) - Math.min(...values)) / Math.abs(values[0]);
  if (!(apart < TOLERANCE)) throw new Error(`${what} differs: ${values.join(', ')}`);
}

/** @param {Page} page */
async function compareProducts(page) {
  const taken = await inTurn(PRODUCT_ROUNDS, (name) => (name === OURS ? oursMatmul(page) : products(page, name)));
  const ms = (name, i) => median(taken[name].map((times) => times[i]));
  const rate = (name, i) => (2e-6 * TOKENS * PRODUCTS[i].out * PRODUCTS[i].in) / ms(name, i);
  console.log(`\nproducts with f32 weights, ${TOKENS} tokens: GFLOP/s, median of ${PRODUCT_ROUNDS}`);
  const label = ({ out, in: k, transposed }) => `${transposed ? 'dx = dy W' : 'y = x Wᵀ '}   W ${out} x ${k}`;
  printTable([['', ...NAMES], ...PRODUCTS.map((shape, i) => [label(shape), ...NAMES.map((name) => rate(name, i))])]);
  const ratios = Object.keys(PEERS).map((name) => median(PRODUCTS.map((_, i) => rate(OURS, i) / rate(name, i))));
  const gflops = (i) => Object.fromEntries(NAMES.map((name) => [name, rate(name, i)]));
  const shapes = PRODUCTS.map((shape, i) => ({ ...shape, gflops: gflops(i) }));
  return { ratios, details: { tokens: TOKENS, shapes } };
}

/** @param {Page} page */
async function compareSteps(page) {
  const peers = await page.evaluate((names) => globalThis.bench.gradients(...names), Object.keys(PEERS));
  // The first step of a turn warms up what the others' turns have cooled, and is left out.
  const taken = await inTurn(STEP_ROUNDS, (name) => page.evaluate((name) => globalThis.bench.steps(name, 2), name));

  // The first turns started from one adapter: equal losses before and after an update, and ours tells its norm.
  const opening = NAMES.map((name) => taken[name][0]);
  const losses = [0, 1].map((step) => opening.map((steps) => steps[step].loss));
  losses.forEach((values, step) => agree(`the loss of step ${step + 1}`, values));
  const norms = [...Object.keys(PEERS).map((name) => peers.norms[name]), taken[OURS][0][0].gradNorm];
  agree('the norm of the gradients', norms);
  if (!(peers.worst < TOLERANCE)) throw new Error(`the peers' gradients of a factor lie ${peers.worst} apart`);

  const ms = Object.fromEntries(NAMES.map((name) => [name, taken[name].map((steps) => steps[1].ms)]));
  console.log(`\nLoRA step: ${STEP_LABEL}, Adam; of ${STEP_ROUNDS}`);
  printTable([
    ['', 'median ms', 'least', 'most', 'first loss', 'second', 'gradient norm'],
    ...NAMES.map((name, i) => [
      name,
      ...[median(ms[name]), Math.min(...ms[name]), Math.max(...ms[name])].map((value) => value.toFixed(0)),
      ...[losses[0][i], losses[1][i], norms[i]].map((value) => value.toFixed(5)),
    ]),
  ]);
  console.log(`the peers' gradients, each of ${peers.factors} factors: within ${peers.worst.toExponential(1)}`);
  const ratios = Object.keys(PEERS).map((name) => median(ms[name]) / median(ms[OURS]));
  return { ratios, details: { tokens: TOKENS, rank: LORA.r, ms, losses, norms, worst: peers.worst } };
}

/** @param {[string, string]} peer */
async function version([name, folder]) {
  return [name, JSON.parse(await readFile(`${here}node_modules/${folder}/package.json`, 'utf8')).version];
}

await writeModel();
const server = await (await serve()).listen();
const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });
try {
  const page = await browser.newPage();
  page.on('pageerror', (error) => console.error(error));
  page.on('console', (message) => message.type() === 'error' && console.error(message.text()));
  await page.goto(server.resolvedUrls?.local[0] ?? '');
  await page.waitForFunction(() => globalThis.bench);
  for (const name of Object.keys(PEERS)) await page.evaluate((name) => globalThis.bench.open(name), name);
  const adapter = await page.evaluate((name) => globalThis.bench.open(name), OURS);
  const versions = Object.fromEntries(await Promise.all(Object.entries(PEERS).map(version)));
  const peers = Object.entries(versions).map((peer) => peer.join(' '));
  const date = new Date().toISOString().slice(0, 10);
  console.log(`Chromium ${browser.version()}, ${adapter.name}, ${date}; ${peers.join(', ')}`);
  const [matmul, step] = [await compareProducts(page), await compareSteps(page)];
  const ratios = {
    matmul_ratio_jax_js: matmul.ratios[0],
    matmul_ratio_tfjs: matmul.ratios[1],
    step_ratio_jax_js: step.ratios[0],
    step_ratio_tfjs: step.ratios[1],
  };
  const where = { date, chromium: browser.version(), adapter: adapter.name, software: adapter.software, versions };
  await merge(ratios, 'peers', { model: CONFIG, browser: { ...where, matmul: matmul.details, step: step.details } });
  console.log('\nabove 1: we are faster');
  printRatios(ratios);
} finally {
  await browser.close();
  await server.close();
}
