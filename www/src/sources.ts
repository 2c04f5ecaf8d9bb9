/**
 * Byte sources of the worker: slices of a `File`, HTTP ranges of a URL, and models of the Hub, which are brought into
 * the tab's storage first. Nothing here holds a whole model.
 */

import { WebLoraError, errorData } from './errors.js';
import { MissingError, bytesOf, networkError, request, stopped, totalSize, type Ask } from './http.js';
import { addressOf, ask, fileUrl, type HubAddress } from './hub/api.js';
import { keptFolder, listingOf, wholeFile } from './hub/cache.js';
import { download } from './hub/download.js';
import { TEXT_FILES, WEIGHTS, WEIGHTS_INDEX, pickChoice } from './hub/files.js';
import type { PostedSource } from './protocol.js';
import type { HubSource, Progress } from './types.js';
import type { ByteSource } from './wasm.js';

export interface OpenOptions {
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
  /** Only headers will be read: then nothing is downloaded that need not be. */
  headersOnly?: boolean;
  /** Told which commit of the Hub it is, where it is of the Hub. */
  onCommit?: (commit: string) => void;
}

/** Hands on the files of a source. What is thrown is what a read failed with, where one did. */
export async function withFiles<Result>(
  source: PostedSource,
  options: OpenOptions,
  use: (files: readonly ByteSource[]) => Promise<Result>,
): Promise<Result> {
  const failures: unknown[] = [];
  try {
    return await use(watched(await openSource(source, options), failures));
  } catch (error) {
    if (options.signal.aborted) throw stopped();
    throw failures[0] ?? error;
  }
}

/** The same sources; what fails in a read is kept, as the engine can only say that a read failed. */
function watched(files: readonly ByteSource[], failures: unknown[]): ByteSource[] {
  return files.map((file) => ({
    name: file.name,
    size: file.size,
    async read(offset, length) {
      try {
        return await file.read(offset, length);
      } catch (error) {
        failures.push(error);
        throw errorData(error);
      }
    },
  }));
}

/** Opens each file of a source, reading no more of it than its size. */
async function openSource(source: PostedSource, options: OpenOptions): Promise<ByteSource[]> {
  if ('files' in source) return source.files.map((file) => fileSource(file, file.name));
  if ('hub' in source) return openHub(source.hub, options);
  const { signal } = options;
  const open = (url: string) => openUrl({ url, name: lastPart(new URL(url).pathname), signal });
  if (new URL(source.url).pathname.endsWith('.gguf')) return openAll(partsOf(source.url), open);
  const folder = source.url.endsWith('/') ? source.url : `${source.url}/`;
  const opened = (name: string) => open(new URL(name, folder).href);
  const files = await openAll([...TEXT_FILES], (name) => (name === 'config.json' ? opened(name) : ifThere(opened(name))));
  const whole = await ifThere(opened(WEIGHTS));
  if (whole) return [...files, whole];
  const index = await opened(WEIGHTS_INDEX).catch((error: unknown) => {
    throw error instanceof MissingError ? networkError(WEIGHTS, `it is not at ${folder}, nor is ${WEIGHTS_INDEX}`) : error;
  });
  return [...files, index, ...(await openAll(await shardsOf(index), opened))];
}

/** The URLs of all parts of a GGUF, given that of one: `…-00002-of-00003.gguf`. */
function partsOf(url: string): string[] {
  const place = new URL(url);
  const [, stem, count] = /^(.*)-\d{5}-of-(\d{5})\.gguf$/.exec(place.pathname) ?? [];
  if (stem === undefined || count === undefined) return [url];
  return Array.from({ length: Number(count) }, (_, index) => {
    place.pathname = `${stem}-${String(index + 1).padStart(5, '0')}-of-${count}.gguf`;
    return place.href;
  });
}

async function openAll(names: string[], open: (name: string) => Promise<ByteSource | undefined>): Promise<ByteSource[]> {
  const files: ByteSource[] = [];
  for (const name of names) files.push(...[await open(name)].filter((file) => file !== undefined));
  return files;
}

async function ifThere(opening: Promise<ByteSource>): Promise<ByteSource | undefined> {
  return opening.catch((error: unknown) => {
    if (error instanceof MissingError) return undefined;
    throw error;
  });
}

/** The files that an index of weights names. */
async function shardsOf(index: ByteSource): Promise<string[]> {
  try {
    const { weight_map } = JSON.parse(new TextDecoder().decode(await index.read(0, index.size)));
    return [...new Set(Object.values(weight_map as Record<string, string>).map(lastPart))].sort();
  } catch (error) {
    if (error instanceof WebLoraError) throw error;
    throw new WebLoraError({ code: 'bad_file', file: index.name, message: `${index.name} has no weight_map that names files.` });
  }
}

async function openHub(hub: HubSource, { signal, onProgress, headersOnly = false, onCommit }: OpenOptions): Promise<ByteSource[]> {
  const address = addressOf(hub);
  const listing = await listingOf(address, signal);
  onCommit?.(listing.commit);
  const choice = pickChoice(hub.repo, listing.choices, hub.file);
  // With the repository for a folder, which is what the engine calls the model by.
  const named = (path: string) => `${lastPart(hub.repo)}/${path}`;
  if (!headersOnly) {
    const files = await download(listing, choice, { address, signal, onProgress });
    return files.map((file, i) => fileSource(file, named(choice.files[i]?.path ?? file.name)));
  }
  const folder = await keptFolder(listing);
  const heads = choice.files.filter(({ path }) => path === 'config.json' || !TEXT_FILES.includes(path));
  return Promise.all(
    heads.map(async (file) => {
      const kept = folder && (await wholeFile(folder, file));
      const name = named(file.path);
      return kept ? fileSource(kept, name) : rangesOf(hubAsk(address, fileUrl(listing, file.path), name, signal), name, file.size);
    }),
  );
}

function hubAsk(address: HubAddress, url: string, name: string, signal: AbortSignal): RangeRequest {
  return (range) => ask(address, url, name, { headers: { Range: range }, signal });
}

export function fileSource(file: Blob, name: string): ByteSource {
  return {
    name,
    size: file.size,
    async read(offset, length) {
      try {
        return new Uint8Array(await file.slice(offset, offset + length).arrayBuffer());
      } catch {
        throw new WebLoraError({
          code: 'bad_file',
          file: name,
          message: `${name}: the file can no longer be read. Was it moved or changed? Choose it again.`,
        });
      }
    },
  };
}

async function openUrl(what: Ask): Promise<ByteSource> {
  const { name } = what;
  const ask: RangeRequest = (range) => request({ ...what, headers: { Range: range } });
  const probe = await ask('bytes=0-0');
  if (probe.status === 200) {
    // No ranges here: the browser takes the whole file in, on its own disk rather than in our memory.
    const blob = await probe.blob();
    return fileSource(blob, name);
  }
  const size = totalSize(probe);
  await probe.body?.cancel();
  if (size === undefined) throw networkError(name, 'the server does not say how large the file is');
  return rangesOf(ask, name, size);
}

type RangeRequest = (range: string) => Promise<Response>;

function rangesOf(ask: RangeRequest, name: string, size: number): ByteSource {
  return {
    name,
    size,
    async read(offset, length) {
      if (length === 0) return new Uint8Array();
      const response = await ask(`bytes=${offset}-${offset + length - 1}`);
      if (response.status !== 206 || totalSize(response) !== size) {
        throw networkError(name, 'the file changed on the server while it was being read');
      }
      const bytes = await bytesOf(response).catch(() => undefined);
      if (bytes?.length !== length) throw networkError(name, `${bytes?.length ?? 'fewer'} bytes came where ${length} were due`);
      return bytes;
    },
  };
}

function lastPart(path: string): string {
  return decodeURIComponent(path.slice(path.lastIndexOf('/') + 1));
}
