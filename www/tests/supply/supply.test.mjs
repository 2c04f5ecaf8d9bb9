/** What comes from others: fixed to the byte, runs nothing when it is installed, and under terms that we can keep. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { taken } from '../../licences.mjs';

/**
 * @param {string} folder
 * @returns {Promise<[string, { integrity?: string, hasInstallScript?: true, license?: string, peer?: true, dev?: true }][]>}
 */
async function locked(folder) {
  const { packages } = JSON.parse(await readFile(new URL(`../../${folder}package-lock.json`, import.meta.url), 'utf8'));
  return Object.entries(packages).filter(([name]) => name !== '');
}

test('what the package and the page are built of has a hash, and no script that runs at its installation', async () => {
  const packages = await locked('');
  assert.ok(packages.length > 10);
  for (const [name, { integrity, hasInstallScript }] of packages) {
    assert.match(integrity ?? '', /^sha512-/, name);
    assert.equal(hasInstallScript, undefined, name);
  }
});

test('of what the tests of the package install, only the GPU for Node runs a script', async () => {
  const packages = await locked('package-tests/');
  for (const [name, { integrity }] of packages) assert.match(integrity ?? '', /^sha512-/, name);
  const scripts = packages.filter(([, { hasInstallScript }]) => hasInstallScript).map(([name]) => name);
  assert.deepEqual(scripts, ['node_modules/webgpu']);
});

test('of licences that are offered, one is taken that we may ship under', () => {
  assert.deepEqual(taken('MIT OR Apache-2.0'), ['Apache-2.0']);
  assert.deepEqual(taken('Unlicense/MIT'), ['MIT']);
  assert.deepEqual(taken('(MIT OR Apache-2.0) AND Unicode-3.0'), ['Apache-2.0', 'Unicode-3.0']);
  for (const refused of ['GPL-3.0-only', 'MIT AND GPL-2.0', 'ring names no licence']) assert.throws(() => taken(refused));
});

test('every crate in the wasm is in the list of terms', async () => {
  const terms = await readFile(new URL('../../dist/LICENSES.txt', import.meta.url), 'utf8');
  for (const crate of ['wgpu', 'tokenizers', 'minijinja', 'safetensors', 'csv', 'nalgebra', 'fflate', 'hyparquet']) {
    assert.match(terms, new RegExp(`^${crate}\\b`, 'm'), crate);
  }
  assert.doesNotMatch(terms, /^inferno\b/m, 'a crate of the profile alone');
});
