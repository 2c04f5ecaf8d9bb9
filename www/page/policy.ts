/**
 * What the page forbids itself on top of the policy that it is served with (vite.config.ts). A page's own connections
 * go to where it came from and to the one Hub that it was opened on; models from other addresses are the worker's to
 * fetch, which never sees more than bytes, and where the Hub wants a large file is another worker's to ask. Text never
 * becomes script: of all that Trusted Types guard only the addresses of our own workers pass.
 */

import { hubEndpoint } from './hub-panel.js';

/** Not of TypeScript's DOM library yet. */
declare const trustedTypes: { createPolicy(name: 'default', rules: { createScriptURL(url: string): string | null }): unknown } | undefined;

/** Paths below the page's folder, as the build names them. */
const WORKERS = /^(assets\/(push-)?worker-[\w-]+|service-worker)\.js$/;

export function lockDown(): void {
  const here = new URL('./', document.baseURI).href;
  const createScriptURL = (url: string) => {
    const { href } = new URL(url, here);
    return href.startsWith(here) && WORKERS.test(href.slice(here.length)) ? href : null;
  };
  if (typeof trustedTypes !== 'undefined') trustedTypes.createPolicy('default', { createScriptURL });

  const hub = URL.canParse(hubEndpoint()) ? new URL(hubEndpoint()).origin : '';
  const pinned = document.createElement('meta');
  pinned.httpEquiv = 'Content-Security-Policy';
  pinned.content = `connect-src 'self' ${hub}`;
  // A policy that is added only ever takes away.
  document.head.append(pinned);
}
