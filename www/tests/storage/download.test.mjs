/** A download that is cut at any byte or answered wrongly: in the end its files are whole and right, or there is an error. */

import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { loadInside, noise } from './run.mjs';

/** @typedef {import('node:http').ServerResponse} ServerResponse */

const WEIGHTS = Buffer.from(noise(4000, 3));
const FILES = { 'config.json': Buffer.from('{}'), 'model.safetensors': WEIGHTS };

/** @type {typeof import('./inside.js')} */
let inside;
/** @type {string} */
let folder;
/** @type {import('./inside.js').HubServer} */
let hub;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'web-lora-download-'));
  inside = await loadInside(folder);
  hub = await inside.HubServer.start();
  hub.add('some/model', FILES);
});
after(async () => {
  hub.stop();
  await rm(folder, { recursive: true });
});
beforeEach(async () => {
  await rm(join(folder, 'cache'), { recursive: true, force: true });
  hub.instead = undefined;
  hub.log.length = 0;
});

async function bring() {
  const address = inside.addressOf({ repo: 'some/model', endpoint: hub.endpoint });
  const listing = await inside.listingOf(address);
  const [choice] = listing.choices;
  assert.ok(choice);
  const { signal } = new AbortController();
  const files = await inside.download(listing, choice, { address, signal, onProgress: () => undefined });
  return Promise.all(files.map(async (file) => Buffer.from(await file.arrayBuffer())));
}

/** @param {number[]} refusals how many bytes of each answer come before it breaks, in turn */
async function broken(...refusals) {
  hub.instead = (request, response, bytes) => {
    const after = refusals.shift();
    if (after === undefined) return false;
    const from = Number(/\d+/.exec(request.headers.range ?? '')?.[0] ?? 0);
    response.writeHead(from > 0 ? 206 : 200, { 'Content-Length': bytes.length - from, ...(from > 0 ? { 'Content-Range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}) });
    response.write(bytes.subarray(from, from + after), () => setTimeout(() => response.destroy(), 3));
    return true;
  };
  assert.deepEqual(await bring(), Object.values(FILES));
}

test('cut at any byte, once and again', async () => {
  for (const at of [0, 1, ...Array.from({ length: 30 }, (_, i) => 2 + 133 * i), WEIGHTS.length - 1]) {
    await rm(join(folder, 'cache'), { recursive: true, force: true });
    await broken(at, Math.floor((WEIGHTS.length - at) / 3));
  }
});

test('a connection that stalls is given up, and taken up where it was', async () => {
  let stalled = 0;
  hub.instead = (_, response, bytes) => {
    if (stalled++ > 0) return false;
    response.writeHead(200, { 'Content-Length': bytes.length });
    response.write(bytes.subarray(0, 1500));
    return true;
  };
  assert.deepEqual(await bring(), Object.values(FILES));
  assert.deepEqual(hub.requestsFor('model.safetensors').map(({ range }) => range), [undefined, 'bytes=1500-']);
});

test('a server that takes the question and says nothing', async () => {
  hub.instead = () => true;
  await assert.rejects(bring(), { code: 'network', message: /does not answer/ });
});

/** What comes in the place of the file, and what is to come of it. @type {Record<string, [(response: ServerResponse, bytes: Buffer, from: number) => void, string?]>} */
const ANSWERS = {
  'a page that says sorry': [(response) => response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html>Sorry'), 'network'],
  'a page as long as the file': [(response, bytes) => response.writeHead(200).end(Buffer.alloc(bytes.length, '<p>')), 'bad_file'],
  'more than the file': [(response, bytes) => response.writeHead(200).end(Buffer.concat([bytes, Buffer.from('more')])), 'bad_file'],
  'the same, compressed on its way': [(response, bytes) => response.writeHead(200, { 'Content-Encoding': 'gzip' }).end(gzipSync(bytes))],
  'all of it where a part was asked for': [(response, bytes) => response.writeHead(200).end(bytes)],
  'another part than was asked for': [
    (response, bytes, from) => (from > 0 ? response.writeHead(206, { 'Content-Range': `bytes 0-9/${bytes.length}` }).end(bytes.subarray(0, 10)) : response.writeHead(200).end(bytes)),
    'network',
  ],
  'a rest of another file, under another ETag': [
    (response, bytes, from) => response.writeHead(from > 0 ? 206 : 200, { ETag: '"other"', 'Content-Range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }).end(Buffer.alloc(bytes.length - from, 7)),
    'bad_file',
  ],
  'a file that has another length by now': [
    (response, bytes, from) => response.writeHead(206, { 'Content-Range': `bytes ${from}-${bytes.length + 9}/${bytes.length + 10}` }).end(Buffer.alloc(bytes.length + 10 - from)),
    'network',
  ],
};

for (const [name, [answer, code]] of Object.entries(ANSWERS)) {
  test(`after a break comes ${name}`, async () => {
    let breaks = 0;
    hub.instead = (request, response, bytes) => {
      const from = Number(/\d+/.exec(request.headers.range ?? '')?.[0] ?? 0);
      if (breaks++ > 0) answer(response, bytes, from);
      else {
        response.writeHead(200, { 'Content-Length': bytes.length });
        // Time for it to arrive: a reset overtakes what was written.
        response.write(bytes.subarray(0, 1000), () => setTimeout(() => response.destroy(), 100));
      }
      return true;
    };
    if (code) await assert.rejects(bring(), { code });
    else assert.deepEqual(await bring(), Object.values(FILES));
    // Nothing that is not the file goes by its name.
    const names = await readdir(join(folder, 'cache'), { recursive: true });
    assert.equal(names.some((name) => name.endsWith('model.safetensors')), !code);
    hub.instead = undefined;
    assert.deepEqual(await bring(), Object.values(FILES));
  });
}
