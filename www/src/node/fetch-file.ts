/** `fetch` for `file:` URLs, with ranges: models on the disk are read as those of a server are. */

import { open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/** The answer; undefined where the URL is another's to fetch. */
export function fetchFile(what: string | URL | Request, init?: RequestInit): Promise<Response> | undefined {
  const url = what instanceof Request ? what.url : String(what);
  if (!url.startsWith('file:')) return undefined;
  return readRange(fileURLToPath(url), new Headers(init?.headers).get('Range'));
}

async function readRange(path: string, range: string | null): Promise<Response> {
  const file = await open(path).catch(() => undefined);
  if (!file) return new Response(null, { status: 404 });
  try {
    const { size } = await file.stat();
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    const start = Math.min(Number(from ?? 0), size);
    const end = Math.min(Number(to ?? size - 1) + 1, size);
    const bytes = new Uint8Array(Math.max(0, end - start));
    const { bytesRead } = await file.read(bytes, 0, bytes.length, start);
    const type = path.endsWith('.wasm') ? 'application/wasm' : 'application/octet-stream';
    const headers: Record<string, string> = { 'Content-Type': type };
    if (from !== undefined) headers['Content-Range'] = `bytes ${start}-${end - 1}/${size}`;
    return new Response(bytes.subarray(0, bytesRead), { status: from === undefined ? 200 : 206, headers });
  } finally {
    await file.close();
  }
}
