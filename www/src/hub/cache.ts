/**
 * Models kept in the tab's storage (OPFS), by endpoint, repository and commit, so that a second load needs no network.
 *
 *     web-lora-hub/<endpoint and repository>/<commit>/listing.json    what the Hub said of the commit
 *                                                    /<path>          a file, whole and verified
 *                                                    /<path>.part     the beginning of one
 *
 * A file gets its name only once its hash is right. What is asked of a commit never changes, and of a file that is
 * verified at its end nothing more than its length must be known to go on with it.
 */

import { WebLoraError } from '../errors.js';
import { platform } from '../platform.js';
import type { CachedModel, HubChoice, HubFile, HubListing } from '../types.js';
import { COMMIT, addressOf, fetchListing, type HubAddress } from './api.js';
import { pickChoice } from './files.js';

const ROOT = 'web-lora-hub';
const LISTING = 'listing.json';

/** A listing, and when each revision was last seen to be this commit. */
interface Kept {
  listing: HubListing;
  seen: Record<string, number>;
}

/** The models kept in this browser. */
export const hubCache = {
  /** All of them, also those that came only in part, the newest first. */
  async list(): Promise<CachedModel[]> {
    const models: (CachedModel & { seen: number })[] = [];
    for (const { folder, kept } of await snapshots()) {
      const seen = Object.entries(kept.seen).sort(([, a], [, b]) => b - a)[0] ?? ['main', 0];
      for (const choice of kept.listing.choices) {
        const cachedBytes = await bytesOf(folder, choice);
        if (cachedBytes === 0) continue;
        const complete = (await Promise.all(choice.files.map((file) => wholeFile(folder, file)))).every(Boolean);
        const { endpoint, repo, commit } = kept.listing;
        const source = { endpoint, repo, revision: commit, file: choice.name };
        models.push({ source, revision: seen[0], sizeBytes: choice.sizeBytes, cachedBytes, complete, seen: seen[1] });
      }
    }
    return models.sort((a, b) => b.seen - a.seen).map(({ seen: _, ...model }) => model);
  },

  /** Deletes one. Rejects with `in_use` while any tab is downloading it. */
  async delete({ source }: Pick<CachedModel, 'source'>): Promise<void> {
    const address = addressOf(source);
    const where = { ...address, commit: address.revision };
    await platform().locks.request(lockOf(where), { ifAvailable: true }, async (lock) => {
      if (!lock) throw inUse(source.repo);
      const repository = await folderOf(address, false);
      const folder = await subfolder(repository, where.commit, false);
      const kept = folder && (await readListing(folder));
      if (!repository || !folder || !kept) return;
      const { choices } = kept.listing;
      const unwanted = pickChoice(source.repo, choices, source.file);
      for (const { path } of unwanted.files) {
        await remove(folder, nameOf(path), source.repo);
        await remove(folder, partOf(path), source.repo);
      }
      const left = await Promise.all(choices.map((choice) => bytesOf(folder, choice)));
      if (left.every((bytes) => bytes === 0)) await repository.removeEntry(where.commit, { recursive: true });
    });
  },

  /** Bytes that all of them take. */
  async size(): Promise<number> {
    return (await hubCache.list()).reduce((sum, { cachedBytes }) => sum + cachedBytes, 0);
  },
};

/** What the Hub says of a revision; what it said last where it cannot be reached. Of a kept commit it is not asked. */
export async function listingOf(address: HubAddress, signal?: AbortSignal): Promise<HubListing> {
  const exact = COMMIT.test(address.revision) ? await lastListing(address) : undefined;
  if (exact) return exact;
  try {
    return await fetchListing(address, signal);
  } catch (error) {
    const last = error instanceof WebLoraError && error.code === 'network' ? await lastListing(address) : undefined;
    if (last) return last;
    throw error;
  }
}

/** The folder of a commit, made where it is not there, with what the Hub says of it. */
export async function keepListing(listing: HubListing): Promise<FileSystemDirectoryHandle> {
  const folder = await subfolder(await folderOf(listing, true), listing.commit, true);
  if (!folder) throw new WebLoraError({ code: 'no_space', message: 'This browser gives the page no storage to keep a model in.' });
  const before = await readListing(folder);
  const kept: Kept = { listing, seen: { ...before?.seen, [listing.revision]: Date.now() } };
  const file = await folder.getFileHandle(LISTING, { create: true });
  const stream = await file.createWritable();
  await stream.write(JSON.stringify(kept));
  await stream.close();
  return folder;
}

/** The folder of a commit where there is one. */
export async function keptFolder(listing: HubListing): Promise<FileSystemDirectoryHandle | undefined> {
  return subfolder(await folderOf(listing, false), listing.commit, false);
}

/** The file where it is there whole. */
export async function wholeFile(folder: FileSystemDirectoryHandle, { path, size }: HubFile): Promise<File | undefined> {
  const file = await fileIn(folder, nameOf(path));
  return file?.size === size ? file : undefined;
}

/** How much of a file there is. */
export async function keptBytes(folder: FileSystemDirectoryHandle, file: HubFile): Promise<number> {
  return (await wholeFile(folder, file))?.size ?? (await fileIn(folder, partOf(file.path)))?.size ?? 0;
}

export function nameOf(path: string): string {
  return encodeURIComponent(path);
}

export function partOf(path: string): string {
  return `${nameOf(path)}.part`;
}

/** Held by the one that writes or deletes a commit's files, in whatever tab. */
export function lockOf({ endpoint, repo, commit }: Pick<HubListing, 'endpoint' | 'repo' | 'commit'>): string {
  return `${ROOT} ${endpoint}/${repo}@${commit}`;
}

async function lastListing(address: HubAddress): Promise<HubListing | undefined> {
  const { revision } = address;
  let last: { listing: HubListing; seen: number } | undefined;
  for (const { kept } of await snapshots(address)) {
    const { commit } = kept.listing;
    const seen = kept.seen[revision] ?? (commit === revision ? 0 : undefined);
    if (seen === undefined || (last && last.seen > seen)) continue;
    last = { listing: { ...kept.listing, revision }, seen };
  }
  return last?.listing;
}

/** Every commit kept, of one repository or of all. */
async function snapshots(of?: HubAddress): Promise<{ folder: FileSystemDirectoryHandle; kept: Kept }[]> {
  const root = await subfolder(await storage(), ROOT, false);
  const repositories = of ? [await folderOf(of, false)] : root ? await foldersIn(root) : [];
  const found: { folder: FileSystemDirectoryHandle; kept: Kept }[] = [];
  for (const repository of repositories) {
    for (const folder of repository ? await foldersIn(repository) : []) {
      const kept = await readListing(folder);
      if (kept) found.push({ folder, kept });
    }
  }
  return found;
}

async function foldersIn(folder: FileSystemDirectoryHandle): Promise<FileSystemDirectoryHandle[]> {
  const found: FileSystemDirectoryHandle[] = [];
  for await (const entry of folder.values()) if (entry.kind === 'directory') found.push(entry as FileSystemDirectoryHandle);
  return found;
}

/** The tab's storage, which some browsers withhold in private windows. */
async function storage(): Promise<FileSystemDirectoryHandle | undefined> {
  return platform().storage.getDirectory().catch(() => undefined);
}

async function folderOf(
  { endpoint, repo }: Pick<HubListing, 'endpoint' | 'repo'>,
  create: boolean,
): Promise<FileSystemDirectoryHandle | undefined> {
  return subfolder(await subfolder(await storage(), ROOT, create), encodeURIComponent(`${endpoint}/${repo}`), create);
}

async function subfolder(
  folder: FileSystemDirectoryHandle | undefined,
  name: string,
  create: boolean,
): Promise<FileSystemDirectoryHandle | undefined> {
  return folder?.getDirectoryHandle(name, { create }).catch(() => undefined);
}

async function fileIn(folder: FileSystemDirectoryHandle, name: string): Promise<File | undefined> {
  return (await folder.getFileHandle(name).catch(() => undefined))?.getFile();
}

async function readListing(folder: FileSystemDirectoryHandle): Promise<Kept | undefined> {
  try {
    return JSON.parse((await (await fileIn(folder, LISTING))?.text()) ?? 'null') ?? undefined;
  } catch {
    // Cut short by a closed tab: as if it were not there, until the model is asked for again.
    return undefined;
  }
}

async function bytesOf(folder: FileSystemDirectoryHandle, { files }: HubChoice): Promise<number> {
  const sizes = await Promise.all(files.map((file) => keptBytes(folder, file)));
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function remove(folder: FileSystemDirectoryHandle, name: string, repo: string): Promise<void> {
  try {
    await folder.removeEntry(name);
  } catch (error) {
    if (error instanceof DOMException && error.name === 'NotFoundError') return;
    throw inUse(repo);
  }
}

function inUse(repo: string): WebLoraError {
  return new WebLoraError({ code: 'in_use', message: `${repo} is being downloaded, here or in another tab. Stop that first.` });
}
