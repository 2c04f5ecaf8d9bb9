/** Keeps the page itself in the browser, so that it opens without a network. Models are kept by the engine. */

/** Only of a build: while developing, files change under their names. */
export function keepOffline(): void {
  if (!import.meta.env.PROD || !('serviceWorker' in navigator)) return;
  // Where it is refused, as in private windows, the page works as before, with a network.
  navigator.serviceWorker.register(new URL('service-worker.js', document.baseURI)).catch(() => undefined);
}
