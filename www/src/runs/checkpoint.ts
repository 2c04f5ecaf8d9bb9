/**
 * Checkpoints of a run: two files written in turn, so that a tab that dies in the middle of one leaves the other.
 *
 *     8 bytes    "WLCKPT02"
 *     4 bytes    which one it is, counted from 1, little-endian
 *     4 bytes    length of the state
 *    32 bytes    SHA-256 of the sixteen bytes before and the state
 *     …          the state, as the engine wrote it
 *
 * There is nothing else that says which is the newer: a file is what it says or it is not there.
 */

import { openFile, writeAll } from './folder.js';

const MAGIC = new TextEncoder().encode('WLCKPT02');
/** What the digest covers of the header. */
const COVERED = 16;
const HEADER = 48;
const NAMES = ['checkpoint-0', 'checkpoint-1'] as const;

export interface Checkpoint {
  /** 1 for the first of the run. */
  generation: number;
  state: Uint8Array<ArrayBuffer>;
}

/** The newest checkpoint that is whole. */
export async function readCheckpoint(folder: FileSystemDirectoryHandle): Promise<Checkpoint | undefined> {
  const found = await Promise.all(NAMES.map((name) => readOne(folder, name)));
  return found.filter((one) => one !== undefined).sort((a, b) => b.generation - a.generation)[0];
}

/** Writes one in the place of the older. Only a worker can. */
export async function writeCheckpoint(folder: FileSystemDirectoryHandle, { generation, state }: Checkpoint): Promise<void> {
  const name = NAMES[generation % 2] as string;
  const header = new Uint8Array(HEADER);
  const view = new DataView(header.buffer);
  header.set(MAGIC);
  view.setUint32(8, generation, true);
  view.setUint32(12, state.length, true);
  header.set(await digest(header, state), COVERED);
  const file = await openFile(folder, name);
  try {
    // What is not whole must not look as if it were: the header goes away first and comes last.
    file.truncate(0);
    writeAll(file, state, HEADER);
    file.flush();
    writeAll(file, header, 0);
    file.flush();
  } finally {
    file.close();
  }
}

/** Gives their room back. */
export async function removeCheckpoints(folder: FileSystemDirectoryHandle): Promise<void> {
  for (const name of NAMES) await folder.removeEntry(name).catch(() => undefined);
}

async function digest(header: Uint8Array, state: Uint8Array): Promise<Uint8Array> {
  const all = new Uint8Array(COVERED + state.length);
  all.set(header.subarray(0, COVERED));
  all.set(state, COVERED);
  return new Uint8Array(await crypto.subtle.digest('SHA-256', all));
}

async function readOne(folder: FileSystemDirectoryHandle, name: string): Promise<Checkpoint | undefined> {
  try {
    const bytes = new Uint8Array(await (await (await folder.getFileHandle(name)).getFile()).arrayBuffer());
    const view = new DataView(bytes.buffer);
    if (bytes.length < HEADER || !MAGIC.every((byte, at) => bytes[at] === byte)) return undefined;
    const state = bytes.slice(HEADER, HEADER + view.getUint32(12, true));
    const right = await digest(bytes, state);
    if (!right.every((byte, at) => bytes[COVERED + at] === byte)) return undefined;
    return { generation: view.getUint32(8, true), state };
  } catch {
    // Not there, or taken away.
    return undefined;
  }
}
