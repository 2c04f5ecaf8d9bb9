/** Parquet files against what pyarrow reads from them (make_parquet.py wrote both), and broken ones. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { parquetToJsonLines } from '../../dist/parquet.js';

/** @param {string} name */
const fixture = async (name) => new Uint8Array(await readFile(new URL(name, import.meta.url)));
const expected = JSON.parse(await readFile(new URL('expected.json', import.meta.url), 'utf8'));

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function rows(bytes) {
  const text = new TextDecoder().decode(await parquetToJsonLines('a.parquet', bytes));
  return text.trimEnd().split('\n').map((line) => JSON.parse(line));
}

for (const name of ['none', 'snappy', 'gzip', 'zstd', 'plain']) {
  test(`${name}: the rows are pyarrow's`, async () => {
    const read = await rows(await fixture(`${name}.parquet`));
    assert.equal(read.length, 20);
    assert.deepEqual(read, expected);
  });
}

test('a broken file is an error that names it, never anything else', async () => {
  const whole = await fixture('zstd.parquet');
  await assert.rejects(parquetToJsonLines('a.parquet', whole.slice(0, -9)), /^WebLoraError: a\.parquet: it cannot be read/);
  await assert.rejects(parquetToJsonLines('a.parquet', new TextEncoder().encode('PAR1')), /a\.parquet: it cannot be read/);
  let refused = 0;
  for (let at = 4; at < whole.length; at += 13) {
    const broken = whole.slice();
    broken[at] = (broken[at] ?? 0) ^ 0x5a;
    const error = await parquetToJsonLines('a.parquet', broken).then(() => undefined, (error) => error);
    if (!error) continue;
    refused += 1;
    assert.equal(error.code, 'bad_data', String(error.stack));
  }
  assert.ok(refused > 30, `${refused} of the damaged files were refused`);
});
