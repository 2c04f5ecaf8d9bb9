/** Byte sources of the worker: slices of a `File`, and HTTP ranges of a URL. Nothing here holds a whole model. */

import { WebLoraError } from './errors.js';
import type { PostedSource } from './protocol.js';
import type { ByteSource } from './wasm.js';

/** Files that a Hugging Face folder may have besides config.json and its weights. */
const OPTIONAL_FILES = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'];
/** Where the weights are in a folder that has them in several files. */
const INDEX = 'model.safetensors.index.json';
/** Indices of the largest models have some hundred kilobytes. */
const MAX_INDEX_BYTES = 2 ** 24;
const ATTEMPTS = 3;

/** Opens each file of a source, reading no more of it than its size. */
export async function openSource(source: PostedSource, signal: AbortSignal): Promise<ByteSource[]> {
  if ('files' in source) return source.files.map(fileSource);
  if (new URL(source.url).pathname.endsWith('.gguf')) return openAll(parts(source.url), signal);
  return openFolder(source.url.endsWith('/') ? source.url : `${source.url}/`, signal);
}

async function openFolder(folder: string, signal: AbortSignal): Promise<ByteSource[]> {
  const open = (name: string) => openUrl(new URL(name, folder).href, signal);
  const files = [await open('config.json')];
  try {
    files.push(await open('model.safetensors'));
  } catch (error) {
    const index = await ifThere(open(INDEX));
    if (!index || !(error instanceof MissingError)) throw error;
    const urls = (await shards(index)).map((name) => new URL(encodeURIComponent(name), folder).href);
    files.push(index, ...(await openAll(urls, signal)));
  }
  for (const name of OPTIONAL_FILES) {
    const file = await ifThere(open(name));
    if (file) files.push(file);
  }
  return files;
}

async function openAll(urls: readonly string[], signal: AbortSignal): Promise<ByteSource[]> {
  const files: ByteSource[] = [];
  for (const url of urls) files.push(await openUrl(url, signal));
  return files;
}

/** The URLs of all parts of a GGUF, given that of one: `…-00002-of-00003.gguf`. */
function parts(url: string): string[] {
  const place = new URL(url);
  const [, stem, count] = /^(.*)-\d{5}-of-(\d{5})\.gguf$/.exec(place.pathname) ?? [];
  if (stem === undefined || count === undefined) return [url];
  return Array.from({ length: Number(count) }, (_, index) => {
    place.pathname = `${stem}-${String(index + 1).padStart(5, '0')}-of-${count}.gguf`;
    return place.href;
  });
}

/** The files that an index names. What is wrong with the index is for the engine to say. */
async function shards(index: ByteSource): Promise<string[]> {
  try {
    const text = new TextDecoder().decode(await index.read(0, Math.min(index.size, MAX_INDEX_BYTES)));
    return [...new Set(Object.values(JSON.parse(text)?.weight_map ?? {}))].filter((name) => typeof name === 'string');
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
}

async function ifThere(file: Promise<ByteSource>): Promise<ByteSource | undefined> {
  return file.catch((error) => {
    if (error instanceof MissingError) return undefined;
    throw error;
  });
}

function fileSource(file: File): ByteSource {
  return {
    name: file.name,
    size: file.size,
    async read(offset, length) {
      try {
        return new Uint8Array(await file.slice(offset, offset + length).arrayBuffer());
      } catch {
        throw new WebLoraError({
          code: 'bad_file',
          file: file.name,
          message: `${file.name}: the file can no longer be read. Was it moved or changed? Choose it again.`,
        });
      }
    },
  };
}

class MissingError extends WebLoraError {}

async function openUrl(url: string, signal: AbortSignal): Promise<ByteSource> {
  const name = decodeURIComponent(new URL(url).pathname.split('/').pop() ?? url);
  const probe = await request(url, name, 'bytes=0-0', signal);
  if (probe.status === 200) {
    // No ranges here: the browser takes the whole file in, on its own disk rather than in our memory.
    const blob = await probe.blob();
    return fileSource(new File([blob], name));
  }
  const size = totalSize(probe);
  await probe.body?.cancel();
  if (size === undefined) throw networkError(name, 'the server does not say how large the file is');
  return {
    name,
    size,
    async read(offset, length) {
      if (length === 0) return new Uint8Array();
      const response = await request(url, name, `bytes=${offset}-${offset + length - 1}`, signal);
      if (response.status !== 206 || totalSize(response) !== size) {
        throw networkError(name, 'the file changed on the server while it was being read');
      }
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (bytes.length !== length) throw networkError(name, `${bytes.length} bytes came where ${length} were due`);
      return bytes;
    },
  };
}

async function request(url: string, name: string, range: string, signal: AbortSignal): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    let failure: WebLoraError;
    try {
      const response = await fetch(url, { headers: { Range: range }, signal });
      if (response.ok) return response;
      if (response.status === 404) {
        throw new MissingError({ code: 'network', file: name, message: `${name} is not at ${url}.` });
      }
      failure = networkError(name, `the server answered ${response.status} ${response.statusText}`.trim());
      if (response.status < 500) throw failure;
    } catch (error) {
      if (signal.aborted) throw new WebLoraError({ code: 'cancelled', message: 'Stopped.' });
      if (error instanceof WebLoraError) throw error;
      failure = networkError(name, 'the server cannot be reached, or does not allow other pages to read from it');
    }
    if (attempt === ATTEMPTS) throw failure;
    await new Promise((resolve) => setTimeout(resolve, 500 * attempt));
  }
}

function totalSize(response: Response): number | undefined {
  const total = /\/(\d+)$/.exec(response.headers.get('Content-Range') ?? '')?.[1];
  return total === undefined ? undefined : Number(total);
}

function networkError(name: string, reason: string): WebLoraError {
  return new WebLoraError({ code: 'network', file: name, message: `${name}: ${reason}.` });
}
