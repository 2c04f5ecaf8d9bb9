/**
 * Brings a model's files into the tab's storage, in the worker, where files can be written in place. A piece is
 * written and hashed as it comes; what has come stays, whatever happens, and the rest is asked for by range.
 *
 * `If-Range` would need the content network to allow it to pages, which it need not. The address names a commit,
 * the whole length is compared, and a hash over all of the file is the proof in the end.
 */

import { WebLoraError } from '../errors.js';
import { networkError, pause, stopped, totalSize, unlessStalled } from '../http.js';
import { platform } from '../platform.js';
import type { HubChoice, HubFile, HubListing, Progress } from '../types.js';
import { ask, fileUrl, type HubAddress } from './api.js';
import { keepListing, keptBytes, lockOf, nameOf, partOf, wholeFile } from './cache.js';
import { FileHash } from './hash.js';

/** Breaks in a row without a byte between them, after which it is for a person to try again. */
const BREAKS = 3;
/** Of what was there before, read at once to be hashed. */
const REREAD_BYTES = 4 << 20;
const REPORT_MS = 100;
/** A rate is what came in so long. */
const RATE_MS = 4000;

/** A file of the tab's storage as a worker has it, which TypeScript's DOM library, being a page's, does not know. */
interface StoredFile extends FileSystemFileHandle {
  createSyncAccessHandle(): Promise<SyncAccess>;
  move(name: string): Promise<void>;
}

interface SyncAccess {
  getSize(): number;
  read(into: Uint8Array, options: { at: number }): number;
  write(from: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}

export interface DownloadOptions {
  address: HubAddress;
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
}

/** The files of a choice, from the storage, after bringing what is missing of them. */
export async function download(listing: HubListing, choice: HubChoice, options: DownloadOptions): Promise<File[]> {
  const { signal, onProgress } = options;
  const bring = () => new Download(listing, choice, options).run();
  const lock = lockOf(listing);
  const files = await platform().locks.request(lock, { ifAvailable: true }, (free) => (free ? bring() : undefined));
  if (files) return files;
  onProgress({ phase: 'wait', loaded: 0, total: 1 });
  try {
    return await platform().locks.request(lock, { signal }, bring);
  } catch (error) {
    throw signal.aborted ? stopped() : error;
  }
}

class Download {
  readonly #listing: HubListing;
  readonly #choice: HubChoice;
  readonly #options: DownloadOptions;
  readonly #meter: Meter;

  constructor(listing: HubListing, choice: HubChoice, options: DownloadOptions) {
    this.#listing = listing;
    this.#choice = choice;
    this.#options = options;
    this.#meter = new Meter(choice.sizeBytes, options.onProgress);
  }

  async run(): Promise<File[]> {
    const folder = await keepListing(this.#listing);
    const { files, sizeBytes } = this.#choice;
    const kept = await Promise.all(files.map((file) => keptBytes(folder, file)));
    await checkSpace(this.#listing.repo, sizeBytes - kept.reduce((sum, bytes) => sum + bytes, 0));
    const whole: File[] = [];
    for (const file of files) {
      const there = await wholeFile(folder, file);
      if (there) this.#meter.skip(file.size);
      whole.push(there ?? (await this.#bring(folder, file)));
    }
    return whole;
  }

  async #bring(folder: FileSystemDirectoryHandle, file: HubFile): Promise<File> {
    const part = (await folder.getFileHandle(partOf(file.path), { create: true })) as StoredFile;
    const access = await part.createSyncAccessHandle();
    let right: boolean;
    try {
      right = await this.#fill(access, file);
    } catch (error) {
      throw error instanceof DOMException && error.name === 'QuotaExceededError' ? noSpace(this.#listing.repo) : error;
    } finally {
      access.close();
    }
    if (!right) {
      await folder.removeEntry(partOf(file.path));
      const hash = file.sha256 ? 'SHA-256' : 'git hash';
      const message = `${file.path} is not the file that the Hub lists: its ${hash} is another. It was damaged on its way, or changed, and has been deleted. Download it again.`;
      throw new WebLoraError({ code: 'bad_file', file: file.path, message });
    }
    await part.move(nameOf(file.path));
    return part.getFile();
  }

  /** Brings what is missing, and says whether the whole has the right hash. */
  async #fill(access: SyncAccess, file: HubFile): Promise<boolean> {
    const { signal } = this.#options;
    let hash = await this.#reread(access, file);
    for (let breaks = 0; access.getSize() < file.size; ) {
      const before = access.getSize();
      const response = await this.#ask(file, before);
      if (before > 0 && response.status === 200) {
        // A server without ranges: from the beginning.
        this.#meter.skip(-before);
        access.truncate(0);
        hash = new FileHash(file);
      }
      const complete = await this.#write(access, hash, file, response);
      if (signal.aborted) throw stopped();
      if (complete || access.getSize() >= file.size) continue;
      breaks = access.getSize() > before ? 1 : breaks + 1;
      if (breaks === BREAKS) {
        throw networkError(file.path, 'the connection breaks off or stalls again and again. What has come is kept: start again to go on from there');
      }
      await pause(500 * breaks, signal);
    }
    access.flush();
    return access.getSize() === file.size && hash.matches();
  }

  /** The hash of what an earlier attempt left, which also is what keeps a damaged beginning from being trusted. */
  async #reread(access: SyncAccess, file: HubFile): Promise<FileHash> {
    const hash = new FileHash(file);
    if (access.getSize() > file.size) access.truncate(0);
    const bytes = new Uint8Array(Math.min(REREAD_BYTES, access.getSize()));
    for (let at = 0; at < access.getSize(); ) {
      const count = access.read(bytes, { at });
      hash.update(bytes.subarray(0, count));
      this.#meter.add(count, 'verify');
      at += count;
      // Lets an abort in.
      await pause(0, this.#options.signal);
    }
    return hash;
  }

  async #ask(file: HubFile, from: number): Promise<Response> {
    const { address, signal } = this.#options;
    const headers: Record<string, string> = from > 0 ? { Range: `bytes=${from}-` } : {};
    const response = await ask(address, fileUrl(this.#listing, file.path), file.path, { headers, signal });
    // No model is one: what a wall before the network says, or a server that is tired.
    if (response.headers.get('Content-Type')?.startsWith('text/html')) {
      await response.body?.cancel();
      throw networkError(file.path, 'the server answered with a page in its place');
    }
    const range = response.headers.get('Content-Range') ?? '';
    if (response.status === 200 || (range.startsWith(`bytes ${from}-`) && totalSize(response) === file.size)) return response;
    throw networkError(file.path, `the server answered with “${range}” where bytes from ${from} of ${file.size} were due`);
  }

  /** Writes what comes. False where the connection broke. */
  async #write(access: SyncAccess, hash: FileHash, file: HubFile, response: Response): Promise<boolean> {
    const reader = response.body?.getReader();
    try {
      for (;;) {
        const next = await (reader && unlessStalled(reader.read()).catch(() => undefined));
        if (!next) return false;
        // A server may end in silence what it cut short.
        if (next.done) return access.getSize() >= file.size;
        const at = access.getSize();
        if (access.write(next.value, { at }) !== next.value.length) throw noSpace(this.#listing.repo);
        hash.update(next.value);
        this.#meter.add(next.value.length, 'download');
        // More than there should be is as wrong as another hash, which it will have.
        if (access.getSize() > file.size) return true;
      }
    } finally {
      await reader?.cancel().catch(() => undefined);
    }
  }
}

/** Reports bytes as they come, now and then, with their rate and the time left. */
class Meter {
  readonly #total: number;
  readonly #onProgress: (progress: Progress) => void;
  #loaded = 0;
  #reported = -Infinity;
  #phase: Progress['phase'] | undefined;
  /** Bytes that had come in this phase, and when, over the last moments. */
  #marks: { at: number; bytes: number }[] = [];
  #came = 0;

  constructor(total: number, onProgress: (progress: Progress) => void) {
    this.#total = total;
    this.#onProgress = onProgress;
  }

  /** Counts what took no time, or is to come again. */
  skip(bytes: number): void {
    this.#loaded += bytes;
  }

  add(bytes: number, phase: 'download' | 'verify'): void {
    if (phase !== this.#phase) [this.#phase, this.#marks, this.#came] = [phase, [], 0];
    this.#loaded += bytes;
    this.#came += bytes;
    const at = performance.now();
    if (at - this.#reported < REPORT_MS && this.#loaded < this.#total) return;
    this.#reported = at;
    this.#onProgress({ phase, loaded: this.#loaded, total: this.#total, ...this.#rate(at) });
  }

  #rate(at: number): Pick<Progress, 'bytesPerSecond' | 'secondsLeft'> {
    this.#marks.push({ at, bytes: this.#came });
    while (at - (this.#marks[0]?.at ?? at) > RATE_MS) this.#marks.shift();
    const [first] = this.#marks;
    if (!first || at === first.at || this.#came <= first.bytes) return {};
    const bytesPerSecond = (1000 * (this.#came - first.bytes)) / (at - first.at);
    return { bytesPerSecond, secondsLeft: (this.#total - this.#loaded) / bytesPerSecond };
  }
}

async function checkSpace(repo: string, needed: number): Promise<void> {
  const { quota, usage = 0 } = await platform().storage.estimate();
  const free = quota === undefined ? Infinity : quota - usage;
  if (needed > free) throw noSpace(repo, needed - free);
}

function noSpace(repo: string, missingBytes?: number): WebLoraError {
  const missing = missingBytes === undefined ? 'It is full.' : `${Math.ceil(missingBytes / 1e6)} MB are missing.`;
  const message = `The browser’s storage has no room for ${repo}. ${missing} Delete a model that is kept, or free space on the disk.`;
  return new WebLoraError({ code: 'no_space', message, ...(missingBytes ? { neededBytes: missingBytes } : {}) });
}
