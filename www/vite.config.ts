/** Builds the page into site/ and serves it, with the models of ../.cache/models under /models/. */

import { createHash } from 'node:crypto';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import sirv from 'sirv';
import { defineConfig, type Plugin } from 'vite';

/**
 * Nothing is loaded from elsewhere, and no script that is not a file of ours. `connect-src` is for models that the user
 * names: from the Hub and the content network it sends to, from any other address, and from a server on this machine,
 * as a mirror of the Hub may be. Sent with every file, for the worker takes its policy from its own answer, and repeated in
 * the page for servers that send no headers of ours. The page pins its own connections further: page/policy.ts, which
 * also has the one policy of Trusted Types.
 */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self'",
  "manifest-src 'self'",
  "connect-src 'self' https: http://localhost:*",
  "base-uri 'none'",
  "form-action 'none'",
  "require-trusted-types-for 'script'",
  'trusted-types default',
].join('; ');

// `dev` makes it look at the folder anew on each request: the model may come after the server.
const serveModels = sirv(fileURLToPath(new URL('../.cache/models', import.meta.url)), { dev: true });
const models: Plugin = {
  name: 'models',
  configureServer: ({ middlewares }) => void middlewares.use('/models', serveModels),
  configurePreviewServer: ({ middlewares }) => void middlewares.use('/models', serveModels),
};

const policy: Plugin = {
  name: 'content-security-policy',
  apply: 'build',
  transformIndexHtml: () => [
    {
      tag: 'meta',
      attrs: { 'http-equiv': 'Content-Security-Policy', content: CONTENT_SECURITY_POLICY },
      injectTo: 'head-prepend',
    },
  ],
};

/** Puts in what index.html names as `<!-- page/….html -->`. */
const fragments: Plugin = {
  name: 'fragments',
  transformIndexHtml: {
    order: 'pre',
    handler: async (html) => {
      const parts = html.split(/<!-- (page\/[\w-]+\.html) -->/);
      const filled = parts.map((part, at) => (at % 2 === 0 ? part : readFile(new URL(part, import.meta.url), 'utf8')));
      return (await Promise.all(filled)).join('');
    },
  },
};

/** The service worker gets the names of all files of the build, and a version that changes with any of them. */
const offline: Plugin = {
  name: 'offline',
  apply: 'build',
  async writeBundle({ dir = '' }) {
    const entries = await readdir(dir, { recursive: true, withFileTypes: true });
    const files = entries
      .filter((entry) => entry.isFile() && entry.name !== WORKER)
      .map((entry) => path.relative(dir, path.join(entry.parentPath, entry.name)).split(path.sep).join('/'))
      .sort();
    const hash = createHash('sha256');
    for (const file of files) hash.update(file).update(await readFile(path.join(dir, file)));
    const source = await readFile(new URL(WORKER, import.meta.url), 'utf8');
    const filled = source
      .replace("'%VERSION%'", JSON.stringify(hash.digest('hex').slice(0, 16)))
      .replace("['%FILES%']", JSON.stringify(files.filter((file) => file !== 'index.html'), null, 2));
    await writeFile(path.join(dir, WORKER), filled);
  },
};
const WORKER = 'service-worker.js';

export default defineConfig({
  base: './',
  // A file that is not there is a 404, never the page.
  appType: 'mpa',
  plugins: [models, fragments, policy, offline],
  // Else each page below this folder is one, those of the tests as well.
  optimizeDeps: { entries: ['index.html'] },
  worker: { format: 'es' },
  build: { outDir: 'site', target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { port: 8321 },
  preview: { port: 8321, headers: { 'Content-Security-Policy': CONTENT_SECURITY_POLICY } },
});
