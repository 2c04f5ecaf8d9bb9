/** Web Locks over files that name the process which holds them, so that two processes do not write the same model. */

import { createHash } from 'node:crypto';
import { link, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { threadId } from 'node:worker_threads';
import type { Platform } from '../platform.js';

const RETRY_MS = 300;

interface Held {
  name: string;
  pid: number;
  thread: number;
}

type Use = (lock: { name: string } | null) => unknown;

/** Locks that lie in a folder. */
export function diskLocks(folder: () => string): Platform['locks'] {
  const request = async (name: string, options: { ifAvailable?: boolean; signal?: AbortSignal }, use: Use) => {
    const path = join(folder(), createHash('sha256').update(name).digest('hex'));
    await mkdir(folder(), { recursive: true });
    while (!(await take(path, name))) {
      if (options.ifAvailable) return use(null);
      await pause(RETRY_MS, undefined, options.signal ? { signal: options.signal } : {});
    }
    try {
      return await use({ name });
    } finally {
      await rm(path, { force: true });
    }
  };
  const query = async () => {
    const found: Held[] = [];
    for (const file of await readdir(folder()).catch(() => [])) {
      const held = await holder(join(folder(), file));
      if (held) found.push(held);
    }
    return { held: found.map(({ name }) => ({ name })) };
  };
  return { request, query } as unknown as Platform['locks'];
}

/** Gives back all locks of a thread of this process that ended without doing so. */
export async function releaseAll(folder: string, thread: number): Promise<void> {
  for (const file of await readdir(folder).catch(() => [])) {
    const held = await holder(join(folder, file));
    if (held?.pid === process.pid && held.thread === thread) await rm(join(folder, file), { force: true });
  }
}

/** Makes the file, unless a process that is alive has made it. */
async function take(path: string, name: string): Promise<boolean> {
  const held: Held = { name, pid: process.pid, thread: threadId };
  for (let attempt = 0; attempt < 2; attempt++) {
    // By a link, so that it is never there without its contents.
    const made = `${path}.${held.pid}.${held.thread}`;
    try {
      await writeFile(made, JSON.stringify(held));
      await link(made, path);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      if (await holder(path)) return false;
      await rm(path, { force: true });
    } finally {
      await rm(made, { force: true });
    }
  }
  return false;
}

/** Who holds it; undefined for one that died with it. */
async function holder(path: string): Promise<Held | undefined> {
  try {
    const held = JSON.parse(await readFile(path, 'utf8')) as Held;
    process.kill(held.pid, 0);
    return held;
  } catch (error) {
    // It is there, and another user's.
    return (error as NodeJS.ErrnoException).code === 'EPERM' ? { name: '', pid: 0, thread: 0 } : undefined;
  }
}
