/**
 * What the Hub answers about a repository, and its refusals in words.
 *
 * A token goes to the endpoint and nowhere else: pages of a list must be the endpoint's own, and where a file is
 * answered with a redirect to a content network, `fetch` drops the header as it follows.
 */

import { WebLoraError } from '../errors.js';
import { networkError, request, type Ask } from '../http.js';
import type { HubFile, HubListing, HubSource } from '../types.js';
import { choicesIn } from './files.js';

export const HUB = 'https://huggingface.co';

/** A source with its defaults, checked. */
export type HubAddress = Required<Pick<HubSource, 'repo' | 'revision' | 'endpoint'>> & Pick<HubSource, 'token'>;

/** Commits as git names them; nothing else may name a folder of the cache. */
export const COMMIT = /^[0-9a-f]{40}$/;
const REPO = /^\w[\w.-]*\/\w[\w.-]*$/;

export function addressOf({ repo, revision = 'main', endpoint = HUB, token }: HubSource): HubAddress {
  if (!REPO.test(repo)) throw badSetting('repo', repo, 'org/name, as a model’s page on the Hub has it');
  if (!URL.canParse(endpoint)) throw badSetting('endpoint', endpoint, 'an address that begins with https://');
  return { repo, revision, endpoint: endpoint.replace(/\/+$/, ''), ...(token ? { token } : {}) };
}

/** Asks which commit a revision is, and for the files in it. */
export async function fetchListing(address: HubAddress, signal?: AbortSignal): Promise<HubListing> {
  const { endpoint, repo, revision } = address;
  const model = `${endpoint}/api/models/${repo}`;
  const answer = await ask(address, `${model}/revision/${encodeURIComponent(revision)}`, repo, { signal });
  const info = (await answer.json()) as { sha?: unknown; gated?: unknown; cardData?: { license?: unknown } | null };
  const commit = String(info.sha);
  if (!COMMIT.test(commit)) throw networkError(repo, `${endpoint} does not answer as the Hub does`);
  const files: HubFile[] = [];
  let next: string | undefined = `${model}/tree/${commit}?recursive=true`;
  while (next) {
    const page: Response = await ask(address, next, repo, { signal });
    files.push(...((await page.json()) as TreeEntry[]).flatMap(fileOf));
    next = nextPage(page, endpoint);
  }
  const license = info.cardData?.license;
  return {
    endpoint,
    repo,
    revision,
    commit,
    gated: Boolean(info.gated),
    ...(typeof license === 'string' ? { license } : {}),
    choices: choicesIn(repo, files),
    files,
  };
}

/** Asks the endpoint, with the token where there is one. */
export function ask(address: HubAddress, url: string, name: string, more: Pick<Ask, 'headers' | 'signal'>): Promise<Response> {
  const headers = { ...more.headers, ...(address.token ? { Authorization: `Bearer ${address.token}` } : {}) };
  // What is kept is kept by us: a second copy in the browser's own cache would only take room.
  const init: RequestInit = { cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' };
  return request({ ...more, url, name, headers, init, explain: (response) => explain(address, name, response) });
}

/** Where a file of a commit is. A commit never changes, so what is asked for in pieces fits together. */
export function fileUrl({ endpoint, repo, commit }: Pick<HubListing, 'endpoint' | 'repo' | 'commit'>, path: string): string {
  return `${endpoint}/${repo}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
}

interface TreeEntry {
  type: string;
  path: string;
  size: number;
  oid: string;
  lfs?: { oid: string; size: number };
}

function fileOf({ type, path, size, oid, lfs }: TreeEntry): HubFile[] {
  if (type !== 'file') return [];
  return [lfs ? { path, size: lfs.size, oid, sha256: lfs.oid } : { path, size, oid }];
}

function nextPage(response: Response, endpoint: string): string | undefined {
  const link = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get('Link') ?? '')?.[1];
  if (link === undefined) return undefined;
  const url = new URL(link, endpoint);
  if (url.origin === new URL(endpoint).origin) return url.href;
  throw networkError('the list of files', `it goes on at ${url.origin}, which is another server`);
}

/** The Hub's refusals. It answers 401 for what does not exist, so as not to tell what is private. */
function explain(address: HubAddress, file: string, response: Response): WebLoraError | undefined {
  const { endpoint, repo, revision, token } = address;
  const { status, headers } = response;
  const kind = headers.get('X-Error-Code');
  const said = headers.get('X-Error-Message') ?? '';
  const error = (code: 'gated' | 'bad_token' | 'not_found', message: string) =>
    new WebLoraError({ code, file, message });
  if (status === 401 && said.startsWith('Invalid credentials')) {
    return error('bad_token', `The access token is not valid. Make a new one at ${endpoint}/settings/tokens.`);
  }
  if (kind === 'GatedRepo' && !token) {
    return error('gated', `${repo} is gated: accept its authors’ terms at ${endpoint}/${repo}, then give an access token from ${endpoint}/settings/tokens.`);
  }
  if (kind === 'GatedRepo' || status === 403) {
    const reason = said || 'it has not been given access';
    return error('gated', `This token may not read ${repo} (${reason.replace(/\.$/, '')}). Ask for access at ${endpoint}/${repo}, and let the token read gated repositories.`);
  }
  if (kind === 'RevisionNotFound') {
    return error('not_found', `${repo} has no revision “${revision}”. Its branches and tags are at ${endpoint}/${repo}/tree/main; without one you get the newest.`);
  }
  if (kind === 'EntryNotFound') return error('not_found', `${file} is not in ${repo} any more. Choose the model again.`);
  if (kind === 'RepoNotFound' || status === 401) {
    return error('not_found', `There is no model ${repo} at ${endpoint}, or it is private. Check the spelling; for a private one give an access token.`);
  }
  return undefined;
}

function badSetting(name: string, value: string, allowed: string): WebLoraError {
  return new WebLoraError({ code: 'bad_setting', name, value, allowed, message: `${name} is ${value}, allowed is ${allowed}` });
}
