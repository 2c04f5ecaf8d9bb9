/**
 * A stand-in for the Hugging Face Hub, which tests cannot reach: the part of it that a download or an upload meets, with
 * its status codes, headers and redirects, on one port, and the content network that large files come from and go to on
 * another. What goes wrong on the way can be switched on.
 */

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

const EXPOSED =
  'X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,Content-Range,X-Linked-Size,X-Linked-ETag';
/** Files of a page of a listing, where the Hub has 1,000. */
const PAGE = 3;
const CHUNK = 32 << 10;

interface RepoOptions {
  license?: string;
  gated?: boolean;
  branches?: string[];
  /** Sizes that the list gives, where they are not those of the files. */
  sizes?: Record<string, number>;
}

interface Repo extends RepoOptions {
  commit: string;
  visibility?: string;
  /** Summaries, the newest last. */
  history?: string[];
  files: Map<string, StoredFile>;
}

interface StoredFile {
  bytes: Buffer;
  oid: string;
  /** Of files that are kept in the content network. */
  sha256: string | undefined;
}

/** A request as it came. */
export interface Seen {
  server: 'hub' | 'cdn';
  path: string;
  range: string | undefined;
  authorization: string | undefined;
}

export class HubServer {
  /** The token of someone who has accepted all terms. */
  readonly token = 'hf_someone';
  /** The token of someone who has accepted none. */
  readonly stranger = 'hf_stranger';
  /** Whose repositories the first token may make and write to. The other may write to none. */
  readonly owner = 'someone';
  readonly log: Seen[] = [];
  /** Cuts the connection of so many answers of the content network, each after so many bytes. */
  cuts = { answers: 0, after: 0 };
  /** Answers in the place of the content network where it says true. */
  instead: ((request: IncomingMessage, response: ServerResponse, bytes: Buffer) => boolean) | undefined;
  /** Between pieces of 32 KiB from the content network. */
  delayMs = 0;
  /** Changes a byte of this file on its way. */
  damaged: string | undefined;
  /** Stays the same when the server has stopped. */
  endpoint = '';
  readonly #repos = new Map<string, Repo>();
  /** Large files that were sent, by their SHA-256. */
  readonly #received = new Map<string, Buffer>();
  readonly #hub: Server;
  readonly #cdn: Server;

  private constructor() {
    // An upload that is broken off ends the answer to it.
    const serve = (server: Seen['server']) => (request: IncomingMessage, response: ServerResponse) =>
      void this.#serve(server, request, response).catch(() => response.destroy());
    this.#hub = createServer(serve('hub'));
    this.#cdn = createServer(serve('cdn'));
  }

  static async start(): Promise<HubServer> {
    const started = new HubServer();
    for (const server of [started.#hub, started.#cdn]) {
      await new Promise<void>((resolve) => server.listen(0, 'localhost', resolve));
    }
    started.endpoint = addressOf(started.#hub);
    return started;
  }

  /** As if there were no network any more. */
  stop(): void {
    for (const server of [this.#hub, this.#cdn]) {
      server.close();
      server.closeAllConnections();
    }
  }

  /** Adds a repository, or a commit to it. */
  add(name: string, contents: Record<string, Buffer>, options: RepoOptions = {}): void {
    const files = new Map(Object.entries(contents).map(([path, bytes]) => [path, stored(path, bytes)]));
    const commit = hash('sha1', Buffer.from([name, ...[...files].map(([path, { oid }]) => path + oid)].join('\n')));
    this.#repos.set(name, { ...options, commit, files });
  }

  /** What is in a repository that was made by an upload. */
  pushed(name: string): { visibility: string; history: string[]; files: Record<string, Buffer> } | undefined {
    const repo = this.#repos.get(name);
    if (!repo?.history) return undefined;
    const files = Object.fromEntries([...repo.files].map(([path, { bytes }]) => [path, bytes]));
    return { visibility: repo.visibility ?? '', history: repo.history, files };
  }

  commitOf(name: string): string {
    return this.#repos.get(name)?.commit ?? '';
  }

  /** Requests for a file's contents, of whichever server has them. */
  requestsFor(path: string): Seen[] {
    const contents = /^\/(signed|api\/resolve-cache)\//;
    return this.log.filter((seen) => contents.test(seen.path) && seen.path.endsWith(`/${path}`));
  }

  async #serve(server: Seen['server'], request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '', this.endpoint);
    const path = decodeURIComponent(url.pathname);
    const { origin = '*', range, authorization } = request.headers;
    if (request.method === 'OPTIONS') {
      // The content network allows nothing that a page would have to ask for first, but for what is sent there.
      const may = server === 'hub' || path.startsWith('/receive/');
      const allowed = {
        'Access-Control-Allow-Headers': server === 'hub' ? 'authorization,content-type,range' : 'content-type,x-request-id',
        'Access-Control-Allow-Methods': server === 'hub' ? 'GET,POST' : 'PUT',
        'Access-Control-Allow-Origin': origin,
      };
      response.writeHead(may ? 204 : 403, may ? allowed : {}).end();
      return;
    }
    this.log.push({ server, path, range, authorization });
    if (server === 'cdn' && request.method === 'PUT') return this.#receive(path, request, response);
    if (server === 'cdn') return this.#content(path, request, response);
    response.setHeader('Access-Control-Allow-Origin', origin);
    response.setHeader('Access-Control-Expose-Headers', EXPOSED);
    response.setHeader('Vary', 'Origin');
    const [, model, what, revision, rest = ''] =
      /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)$/.exec(path) ??
      /^\/([^/]+\/[^/]+)\/(resolve)\/([^/]+)\/(.+)$/.exec(path) ??
      /^\/api\/resolve-cache\/models\/([^/]+\/[^/]+)\/()([^/]+)\/(.+)$/.exec(path) ??
      [];
    const repo = this.#repos.get(model ?? '');
    const bearer = authorization?.replace('Bearer ', '');
    if (bearer && bearer !== this.token && bearer !== this.stranger) {
      return refuse(response, 401, undefined, 'Invalid credentials in Authorization header');
    }
    if (request.method === 'POST') return this.#write(path, await bodyOf(request), bearer, response);
    if (!repo || !model) return refuse(response, 401, 'RepoNotFound', 'Repository not found');
    const known = [repo.commit, 'main', ...(repo.branches ?? [])];
    if (!known.includes(revision ?? '')) return refuse(response, 404, 'RevisionNotFound', `Invalid rev id: ${revision}`);
    response.setHeader('X-Repo-Commit', repo.commit);
    if (what === 'revision') return json(response, this.#info(model, repo));
    if (what === 'tree') return this.#tree(url, repo, response);
    if (repo.gated && bearer !== this.token) {
      const message = bearer
        ? `Access to model ${model} is restricted and you are not in the authorized list.`
        : `Access to model ${model} is restricted. You must have access to it and be authenticated to access it. Please log in.`;
      return refuse(response, bearer ? 403 : 401, 'GatedRepo', message);
    }
    const file = repo.files.get(rest);
    if (!file) return refuse(response, 404, 'EntryNotFound', 'Entry not found');
    response.setHeader('Accept-Ranges', 'bytes');
    if (what === '') return send(request, response, file.bytes, file.oid);
    response.setHeader('X-Linked-Size', file.bytes.length);
    response.setHeader('X-Linked-ETag', `"${file.sha256 ?? file.oid}"`);
    const location = file.sha256
      ? `${addressOf(this.#cdn)}/signed/${model}/${repo.commit}/${rest}`
      : `/api/resolve-cache/models/${model}/${repo.commit}/${rest}`;
    response.writeHead(file.sha256 ? 302 : 307, { Location: location }).end();
  }

  /** What an upload asks for: a new repository, how to send each file, where to, and the commit of all. */
  #write(path: string, body: Buffer, bearer: string | undefined, response: ServerResponse): void {
    const fail = (status: number, error: string) => json(response, { error }, status);
    if (!bearer) return fail(401, 'Invalid username or password.');
    const named = /^\/api\/models\/([^/]+\/[^/]+)\/(preupload|commit)\/main$/.exec(path) ?? /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/(batch)$/.exec(path);
    const created = path === '/api/repos/create' ? (JSON.parse(String(body)) as { name: string; organization: string; visibility: string }) : undefined;
    const model = created ? `${created.organization}/${created.name}` : (named?.[1] ?? '');
    if (bearer !== this.token || !model.startsWith(`${this.owner}/`)) {
      return fail(403, `You don't have the rights to create a model under the namespace "${model.split('/')[0]}"`);
    }
    const repo = this.#repos.get(model);
    if (created) {
      if (repo) return fail(409, 'You already created this model repo');
      this.#repos.set(model, { commit: '0'.repeat(40), files: new Map(), visibility: created.visibility, history: [] });
      return json(response, { url: `${this.endpoint}/${model}`, id: model, name: model });
    }
    if (!repo) return fail(404, 'Repository not found');
    if (named?.[2] === 'preupload') {
      const { files } = JSON.parse(String(body)) as { files: { path: string }[] };
      return json(response, { files: files.map(({ path }) => ({ path, uploadMode: isLarge(path) ? 'lfs' : 'regular', shouldIgnore: false })) });
    }
    if (named?.[2] === 'batch') {
      const { objects } = JSON.parse(String(body)) as { objects: { oid: string; size: number }[] };
      const upload = (oid: string) => ({ upload: { href: `${addressOf(this.#cdn)}/receive/${oid}` } });
      return json(response, { transfer: 'basic', objects: objects.map((object) => ({ ...object, actions: upload(object.oid) })) });
    }
    for (const line of String(body).split('\n')) {
      const { key, value } = JSON.parse(line) as { key: string; value: Record<string, string> };
      if (key === 'header') repo.history?.push(value.summary ?? '');
      const bytes = key === 'file' ? Buffer.from(value.content ?? '', 'base64') : this.#received.get(value.oid ?? '');
      if (key !== 'header' && !bytes) return fail(400, `${value.path} was not sent`);
      if (bytes) repo.files.set(value.path ?? '', stored(value.path ?? '', bytes));
    }
    repo.commit = hash('sha1', body);
    json(response, { success: true, commitOid: repo.commit, commitUrl: `${this.endpoint}/${model}/commit/${repo.commit}`, hookOutput: '' });
  }

  async #receive(path: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.setHeader('Access-Control-Allow-Origin', '*');
    const bytes = await bodyOf(request, this.delayMs);
    const sha256 = path.replace('/receive/', '');
    if (hash('sha256', bytes) !== sha256) return void response.writeHead(400).end();
    this.#received.set(sha256, bytes);
    // As stores of large files have it; the library's progress needs some header that a page may see.
    response.writeHead(200, { 'Content-Length': 0 }).end();
  }

  #info(model: string, { commit, gated, license, files }: Repo): object {
    const cardData = license ? { license } : {};
    const siblings = [...files.keys()].map((rfilename) => ({ rfilename }));
    return { id: model, sha: commit, private: false, gated: gated ? 'manual' : false, cardData, siblings };
  }

  #tree(url: URL, { files, sizes }: Repo, response: ServerResponse): void {
    const from = Number(url.searchParams.get('cursor') ?? 0);
    const entries = [...files].slice(from, from + PAGE).map(([path, { bytes, oid, sha256 }]) => {
      const size = sizes?.[path] ?? bytes.length;
      return { type: 'file', oid, size, path, ...(sha256 ? { lfs: { oid: sha256, size, pointerSize: 133 } } : {}) };
    });
    if (from + PAGE < files.size) {
      url.searchParams.set('cursor', String(from + PAGE));
      response.setHeader('Link', `<${url.href}>; rel="next"`);
    }
    json(response, entries);
  }

  async #content(path: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    // Asked by way of a redirect, so that the page's own origin is not told.
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Expose-Headers', '*');
    response.setHeader('Accept-Ranges', 'bytes');
    const [, model = '', , rest = ''] = /^\/signed\/([^/]+\/[^/]+)\/([^/]+)\/(.+)$/.exec(path) ?? [];
    const file = this.#repos.get(model)?.files.get(rest);
    if (!file) return void response.writeHead(403).end();
    const bytes = Buffer.from(file.bytes);
    if (this.damaged === rest) bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1);
    if (this.instead?.(request, response, bytes)) return;
    // Of downloads, not of a look at a header.
    const cut = this.cuts.answers > 0 && !/-\d+$/.test(request.headers.range ?? '');
    if (cut) this.cuts.answers--;
    await send(request, response, bytes, file.sha256 ?? '', { delayMs: this.delayMs, ...(cut ? { cutAfter: this.cuts.after } : {}) });
  }
}

/** All of a file or the range that was asked for, slowly or cut short where that is wanted. */
async function send(
  { headers }: IncomingMessage,
  response: ServerResponse,
  bytes: Buffer,
  etag: string,
  { delayMs = 0, cutAfter = Infinity } = {},
): Promise<void> {
  const total = bytes.length;
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
  const from = Number(first ?? 0);
  const to = last ? Math.min(Number(last) + 1, total) : total;
  response.setHeader('ETag', `"${etag}"`);
  if (from > 0 && from >= total) return void response.writeHead(416, { 'Content-Range': `bytes */${total}` }).end();
  if (first !== undefined) response.setHeader('Content-Range', `bytes ${from}-${to - 1}/${total}`);
  response.writeHead(first === undefined ? 200 : 206, { 'Content-Length': to - from });
  for (let at = from; at < to && !response.destroyed; at += CHUNK) {
    const end = Math.min(at + CHUNK, to, from + cutAfter);
    await new Promise((resolve) => response.write(bytes.subarray(at, end), resolve));
    if (end === from + cutAfter) {
      // Time for what was written to arrive: a reset overtakes it.
      await new Promise((resolve) => setTimeout(resolve, 50));
      response.destroy();
      return;
    }
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
  }
  response.end();
}

/** All that was sent, taken in slowly where that is wanted. */
async function bodyOf(request: IncomingMessage, delayMs = 0): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of request) {
    pieces.push(piece as Buffer);
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
  }
  return Buffer.concat(pieces);
}

function isLarge(path: string): boolean {
  return !path.endsWith('.json') && !path.endsWith('.md');
}

function stored(path: string, bytes: Buffer): StoredFile {
  const large = isLarge(path);
  const sha256 = large ? hash('sha256', bytes) : undefined;
  const blob = sha256 ? Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${sha256}\nsize ${bytes.length}\n`) : bytes;
  return { bytes, sha256, oid: hash('sha1', Buffer.concat([Buffer.from(`blob ${blob.length}\0`), blob])) };
}

function hash(kind: 'sha1' | 'sha256', bytes: Buffer): string {
  return createHash(kind).update(bytes).digest('hex');
}

function refuse(response: ServerResponse, status: number, code: string | undefined, message: string): void {
  if (code) response.setHeader('X-Error-Code', code);
  response.setHeader('X-Error-Message', message);
  response.writeHead(status, { 'Content-Type': 'text/plain' }).end(message);
}

function json(response: ServerResponse, value: unknown, status = 200): void {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}

function addressOf(server: Server): string {
  return `http://localhost:${(server.address() as AddressInfo).port}`;
}
