/** Byte sources of the worker: slices of a `File`, and HTTP ranges of a URL. Nothing here holds a whole model. */

import { WebLoraError } from './errors.js';
import type { PostedSource } from './protocol.js';
import type { ByteSource } from './wasm.js';

/** Files of a Hugging Face folder that say something about the model; the first two are required. */
const FOLDER_FILES = [
  'config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
];
const ATTEMPTS = 3;

/** Opens each file of a source, reading no more of it than its size. */
export async function openSource(source: PostedSource, signal: AbortSignal): Promise<ByteSource[]> {
  if ('files' in source) return source.files.map(fileSource);
  if (new URL(source.url).pathname.endsWith('.gguf')) return [await openUrl(source.url, signal)];
  const folder = source.url.endsWith('/') ? source.url : `${source.url}/`;
  const files: ByteSource[] = [];
  for (const [index, name] of FOLDER_FILES.entries()) {
    try {
      files.push(await openUrl(new URL(name, folder).href, signal));
    } catch (error) {
      if (index < 2 || !(error instanceof MissingError)) throw error;
    }
  }
  return files;
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
