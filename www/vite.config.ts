/** Builds the page into site/ and serves it, with the models of ../.cache/models under /models/. */

import { fileURLToPath } from 'node:url';
import sirv from 'sirv';
import { defineConfig, type Plugin } from 'vite';

/**
 * Nothing is loaded from elsewhere, and no script that is not a file of ours. `connect-src` is for models that the user
 * names: from the Hub and the content network it sends to, from any other address, and from a server on this machine,
 * as a mirror of the Hub may be. Sent with every file, for the worker takes its policy from its own answer, and repeated in
 * the page for servers that send no headers of ours.
 */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self' https: http://localhost:*",
  "base-uri 'none'",
  "form-action 'none'",
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

export default defineConfig({
  base: './',
  // A file that is not there is a 404, never the page.
  appType: 'mpa',
  plugins: [models, policy],
  worker: { format: 'es' },
  build: { outDir: 'site', target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { port: 8321 },
  preview: { port: 8321, headers: { 'Content-Security-Policy': CONTENT_SECURITY_POLICY } },
});
