/** What the tests of storage share: the package's inside, made ready for Node, and a run to write with it. */

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';

/**
 * The inside of the package, with the disk below `folder` for storage.
 * @param {string} folder
 * @returns {Promise<typeof import('./inside.js')>}
 */
export async function loadInside(folder) {
  const [file, entry] = [join(folder, 'inside.mjs'), fileURLToPath(new URL('inside.ts', import.meta.url))];
  Object.assign(globalThis, { quickTimeout });
  const transform = { define: { setTimeout: 'quickTimeout' } };
  await build({ input: entry, external: /^node:/, platform: 'node', transform, output: { file, format: 'es' }, logLevel: 'silent' });
  process.env.WEB_LORA_CACHE = join(folder, 'cache');
  const inside = await import(file);
  inside.usePlatform(inside.diskPlatform);
  return inside;
}

/**
 * What is a pause between attempts, or the patience with a connection, passes quickly; shorter waits are as they are.
 * @param {() => void} work @param {number} ms
 */
function quickTimeout(work, ms) {
  return setTimeout(work, ms >= 30_000 ? 1000 : ms >= 500 ? 1 : ms);
}

const examples = [
  { name: 'a.jsonl', bytes: bytesOf('{"text": "one"}\n'.repeat(40)) },
  { name: 'b.jsonl', bytes: bytesOf('{"text": "two"}\n') },
];

export const RUN = {
  examples,
  adapter: { config: bytesOf('{"r": 8}'), weights: noise(3000, 9) },
  start: { config: bytesOf('{"r": 4}'), weights: noise(2000, 5) },
  config: /** @type {import('../../src/types.js').RunConfig} */ ({
    model: { name: 'tiny', modelType: 'llama', parameters: 10, dtype: 'F32', options: {} },
    data: { files: examples.map(({ name }) => name), evalFiles: 1, options: {} },
    training: { learningRate: 0.01 },
  }),
  /** @param {number} step @param {number} steps */
  figure(step, steps) {
    const shares = { loss: 1 / step, gradNorm: step / 3, learningRate: 0.01 / step };
    return { step, steps, ...shares, tokens: 7, supervisedTokens: 5, skipped: false, tokensPerSecond: 9.5, secondsLeft: 2 };
  },
};

/** @param {string} text */
export function bytesOf(text) {
  return new Uint8Array(new TextEncoder().encode(text));
}

/** @param {number} length @param {number} seed */
export function noise(length, seed) {
  return Uint8Array.from({ length }, (_, at) => (Math.imul(at + 1, seed * 2654435761) >>> 13) & 255);
}
