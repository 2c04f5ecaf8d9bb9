/**
 * A folder of the disk in the place of a browser's storage: the part of the File System API that models and runs are
 * kept with. It lies where caches do: `WEB_LORA_CACHE`, or else `web-lora` in `XDG_CACHE_HOME` or `~/.cache`.
 */

import { closeSync, constants, fsyncSync, ftruncateSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import type { Platform } from '../platform.js';
import { diskLocks, releaseAll } from './locks.js';

/** Where models and runs are kept. */
export function cacheFolder(): string {
  const { WEB_LORA_CACHE, XDG_CACHE_HOME } = process.env;
  return WEB_LORA_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'web-lora');
}

/** Gives back what a thread held that has ended. */
export function releaseLocks(thread: number): Promise<void> {
  return releaseAll(locksFolder(), thread);
}

const locksFolder = () => join(cacheFolder(), 'locks');

export const diskPlatform: Platform = {
  storage: {
    async getDirectory() {
      return diskFolder(cacheFolder());
    },
    async estimate() {
      await mkdir(cacheFolder(), { recursive: true });
      const { bavail, bsize } = await statfs(cacheFolder());
      return { quota: bavail * bsize, usage: 0 };
    },
    persist: async () => true,
  },
  locks: diskLocks(locksFolder),
};

/** The folder at a path, made where it is not there. */
export async function diskFolder(path: string): Promise<FileSystemDirectoryHandle> {
  await mkdir(path, { recursive: true });
  return new Folder(path) as unknown as FileSystemDirectoryHandle;
}

class Folder {
  readonly kind = 'directory';
  readonly name: string;

  constructor(readonly path: string) {
    this.name = basename(path);
  }

  async getDirectoryHandle(name: string, { create = false } = {}): Promise<Folder> {
    const path = join(this.path, name);
    if (create) await mkdir(path, { recursive: true });
    else if (!(await stat(path).catch(() => undefined))?.isDirectory()) throw notFound(name);
    return new Folder(path);
  }

  async getFileHandle(name: string, { create = false } = {}): Promise<StoredFile> {
    const path = join(this.path, name);
    const there = (await stat(path).catch(() => undefined))?.isFile();
    if (!there && !create) throw notFound(name);
    if (!there) await (await open(path, 'a')).close();
    return new StoredFile(path);
  }

  async removeEntry(name: string, { recursive = false } = {}): Promise<void> {
    try {
      await rm(join(this.path, name), { recursive });
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === 'ENOENT' ? notFound(name) : error;
    }
  }

  async *values(): AsyncGenerator<Folder | StoredFile> {
    for (const entry of await readdir(this.path, { withFileTypes: true })) {
      const path = join(this.path, entry.name);
      yield entry.isDirectory() ? new Folder(path) : new StoredFile(path);
    }
  }
}

interface Writable {
  write(data: Blob | string | Uint8Array): Promise<void>;
  close(): Promise<void>;
  abort(): Promise<void>;
}

class StoredFile {
  readonly kind = 'file';

  constructor(private path: string) {}

  get name(): string {
    return basename(this.path);
  }

  async getFile(): Promise<File> {
    const { size } = await stat(this.path);
    return new DiskFile(this.path, 0, size) as unknown as File;
  }

  /** Written beside, and put in the place of the file at the end. */
  async createWritable(): Promise<Writable> {
    const beside = `${this.path}.${process.pid}.new`;
    await writeFile(beside, '');
    return {
      async write(data) {
        const bytes = data instanceof Blob ? new Uint8Array(await data.arrayBuffer()) : data;
        await writeFile(beside, bytes, { flag: 'a', flush: true });
      },
      close: () => rename(beside, this.path),
      abort: () => rm(beside, { force: true }),
    };
  }

  async createSyncAccessHandle(): Promise<SyncAccess> {
    return new SyncAccess(openSync(this.path, constants.O_RDWR | constants.O_CREAT, 0o644));
  }

  /** The handle goes with the file. */
  async move(name: string): Promise<void> {
    const path = join(this.path, '..', name);
    await rename(this.path, path);
    this.path = path;
  }
}

/** Part of a file, read when it is asked for. */
class DiskFile {
  readonly name: string;

  constructor(
    readonly path: string,
    readonly start: number,
    readonly size: number,
  ) {
    this.name = basename(path);
  }

  slice(from: number, to: number): DiskFile {
    return new DiskFile(this.path, this.start + from, Math.min(to, this.size) - from);
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    const bytes = new Uint8Array(this.size);
    const file = await open(this.path);
    try {
      const { bytesRead } = await file.read(bytes, 0, bytes.length, this.start);
      return bytes.buffer.slice(0, bytesRead);
    } finally {
      await file.close();
    }
  }

  text(): Promise<string> {
    return readFile(this.path, 'utf8');
  }
}

/** A file that is written in place. */
class SyncAccess {
  constructor(readonly file: number) {}

  getSize(): number {
    return fstatSync(this.file).size;
  }

  read(into: Uint8Array, { at }: { at: number }): number {
    return readSync(this.file, into, 0, into.length, at);
  }

  write(from: Uint8Array, { at }: { at: number }): number {
    try {
      return writeSync(this.file, from, 0, from.length, at);
    } catch (error) {
      const full = (error as NodeJS.ErrnoException).code === 'ENOSPC';
      throw full ? new DOMException('The disk is full', 'QuotaExceededError') : error;
    }
  }

  truncate(size: number): void {
    ftruncateSync(this.file, size);
  }

  flush(): void {
    fsyncSync(this.file);
  }

  close(): void {
    closeSync(this.file);
  }
}

function notFound(name: string): DOMException {
  return new DOMException(`${name} is not there`, 'NotFoundError');
}
