/**
 * Where runs lie in the tab's storage (OPFS):
 *
 *     web-lora-runs/<id>/run.json           what the run is, how it ended, and digests (record.ts)
 *                       /metrics.jsonl      steps, evaluations and samples, a line each with its check
 *                       /data-<n>           the files of examples
 *                       /start_config.json, start_model.safetensors        what it went on from, if that was an adapter
 *                       /checkpoint-<0|1>   all that it takes to go on
 *                       /adapter_config.json, adapter_model.safetensors    what came of it
 */

import { WebLoraError } from '../errors.js';
import { platform } from '../platform.js';

const ROOT = 'web-lora-runs';

/** The folder of all runs, made where it is not there. */
export async function runsFolder(): Promise<FileSystemDirectoryHandle> {
  try {
    return await (await platform().storage.getDirectory()).getDirectoryHandle(ROOT, { create: true });
  } catch {
    const message = 'This browser gives the page no storage to keep runs in. A private window may be why.';
    throw new WebLoraError({ code: 'no_space', message });
  }
}

/** The folder of one run. */
export async function runFolder(id: string): Promise<FileSystemDirectoryHandle> {
  try {
    return await (await runsFolder()).getDirectoryHandle(id);
  } catch {
    throw new WebLoraError({ code: 'not_found', message: 'This run is no longer kept in this browser.' });
  }
}

/** The file where there is one. */
export async function readFile(folder: FileSystemDirectoryHandle, name: string): Promise<File | undefined> {
  return (await folder.getFileHandle(name).catch(() => undefined))?.getFile();
}

/** A file that is written in place. */
export interface OpenFile {
  write(bytes: Uint8Array<ArrayBuffer>, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  /** Until then a crash may take what was written. */
  flush(): void;
  close(): void;
}

/** Opens a file to write in place, made where it is not there. Only a worker can. */
export async function openFile(folder: FileSystemDirectoryHandle, name: string): Promise<OpenFile> {
  // TypeScript knows the method in programs of workers alone.
  const handle = (await folder.getFileHandle(name, { create: true })) as FileSystemFileHandle & {
    createSyncAccessHandle(): Promise<OpenFile>;
  };
  return handle.createSyncAccessHandle();
}

/** Writes a file whole: until the end of it the one before stays. */
export async function writeFile(folder: FileSystemDirectoryHandle, name: string, data: Blob | string | Uint8Array<ArrayBuffer>): Promise<void> {
  const stream = await (await folder.getFileHandle(name, { create: true })).createWritable();
  try {
    await stream.write(data);
    await stream.close();
  } catch (error) {
    // Else what was written so far would go on taking room.
    await stream.abort().catch(() => undefined);
    throw error;
  }
}

/** Writes bytes in place. Where only some of them fit, that is an error like any other of a full storage. */
export function writeAll(file: OpenFile, bytes: Uint8Array<ArrayBuffer>, at: number): void {
  const written = file.write(bytes, { at });
  if (written !== bytes.length) throw new DOMException(`${written} of ${bytes.length} bytes fit`, 'QuotaExceededError');
}

/** What a JSON file holds; undefined where there is none or it is damaged. */
export async function readJson<Value>(folder: FileSystemDirectoryHandle, name: string): Promise<Value | undefined> {
  try {
    const file = await readFile(folder, name);
    return file && (JSON.parse(await file.text()) as Value);
  } catch {
    return undefined;
  }
}

/** Held by whoever trains, resumes or deletes a run, in whatever tab. */
export function lockOf(id: string): string {
  return `${ROOT} ${id}`;
}

export function inUse(name: string): WebLoraError {
  return new WebLoraError({ code: 'in_use', message: `The run ${name} is under way, here or in another tab. Stop it first.` });
}
