/** What others' tools say of the package: its types wherever they are asked for, and its package.json. */

import { execFile } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { expect, test } from '@playwright/test';
import { publint } from 'publint';
import { APP, install } from './installed.js';

const HERE = fileURLToPath(new URL('.', import.meta.url));

test.beforeAll(install);

for (const [resolution, module] of [['bundler', 'esnext'], ['node16', 'node16'], ['nodenext', 'nodenext']] as const) {
  test(`types are found with moduleResolution ${resolution}`, async () => {
    const flags = ['--noEmit', '--strict', '--skipLibCheck', 'false', '--target', 'es2022', '--lib', 'es2023,dom,dom.iterable,dom.asynciterable'];
    const tsc = [`${HERE}node_modules/typescript/bin/tsc`, ...flags, '--module', module, '--moduleResolution', resolution, 'consumer.ts'];
    const { stdout } = await promisify(execFile)(process.execPath, tsc, { cwd: APP }).catch((error: { stdout: string }) => error);
    expect(stdout).toBe('');
  });
}

test('others’ checks of a package have nothing to say', async () => {
  const name = (await readdir(APP)).find((name) => name.endsWith('.tgz'));
  const tarball = new Uint8Array(await readFile(`${APP}/${name}`));
  const checked = await checkPackage(createPackageFromTarballData(tarball));
  // An ES module is all that it is: that old resolutions and `require` do not find it, or not as CommonJS, is meant.
  const meant = ['NoResolution', 'CJSResolvesToESM'];
  const problems = 'problems' in checked ? checked.problems : [{ kind: 'no types' }];
  expect(problems.filter(({ kind }) => !meant.includes(kind))).toEqual([]);
  const { messages } = await publint({ pack: { tarball: tarball.buffer }, strict: true });
  expect(messages).toEqual([]);
});
