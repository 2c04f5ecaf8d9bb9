/**
 * Answers with the files of this build, so that the page opens without a network. The build fills in what is in
 * percent signs. A new build has a new version and a cache of its own; it takes over when no tab has the old one open,
 * so that no page mixes files of two builds. Models are no part of it: the engine keeps them.
 */

const CACHE = 'web-lora-page ' + '%VERSION%';
const FILES = ['%FILES%'];

/** The page itself goes by the address of its folder. */
const PAGE = './';

self.addEventListener('install', (event) => {
  // Past the browser's own cache, which may hold files of another build under the same names.
  const requests = [PAGE, ...FILES].map((file) => new Request(file, { cache: 'reload' }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener('activate', (event) => {
  const deleteOld = async () => {
    for (const name of await caches.keys()) if (name.startsWith('web-lora-page ') && name !== CACHE) await caches.delete(name);
  };
  event.waitUntil(deleteOld());
});

self.addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method !== 'GET' || request.headers.has('range')) return;
  const { origin, pathname } = new URL(request.url);
  if (origin !== location.origin) return;
  const scope = new URL(PAGE, location.href).pathname;
  const name = pathname.slice(scope.length);
  const isPage = pathname === scope || pathname === `${scope}index.html`;
  if (!pathname.startsWith(scope) || (!isPage && !FILES.includes(decodeURI(name)))) return;
  const kept = async () => {
    const cache = await caches.open(CACHE);
    return (await cache.match(isPage ? PAGE : request.url, { ignoreSearch: true })) ?? fetch(request);
  };
  event.respondWith(kept());
});
