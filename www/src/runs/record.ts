/**
 * What a run's folder says of itself, so that nothing in it is taken for what it is not: run.json has the digests of the
 * files beside it and its own, a line of metrics.jsonl its check. Whatever disagrees is damaged, and is said to be.
 */

import { WebLoraError } from '../errors.js';
import type { AdapterFiles, RunInfo } from '../types.js';
import { readFile, readJson, writeFile } from './folder.js';

/** All of run.json. */
export interface RunRecord {
  info: RunInfo;
  /** SHA-256 of the files that are written once, by name. */
  files: Record<string, string>;
  /** The newest checkpoint of which it is certain that it was written whole; 0 before the first. */
  checkpoint: number;
}

/** Writes run.json in the place of the one before. */
export async function writeRecord(folder: FileSystemDirectoryHandle, record: RunRecord): Promise<void> {
  await writeFile(folder, 'run.json', JSON.stringify({ ...record, sha256: await digestOf(record) }));
}

/** What run.json says; undefined where there is none or it is damaged. */
export async function readRecord(folder: FileSystemDirectoryHandle): Promise<RunRecord | undefined> {
  const found = await readJson<RunRecord & { sha256: string }>(folder, 'run.json');
  if (typeof found !== 'object' || found === null) return undefined;
  const { sha256, ...record } = found;
  return sha256 === (await digestOf(record)) ? record : undefined;
}

/** The bytes of a file that run.json has the digest of; undefined where it does not speak of it. */
export async function readWhole(
  folder: FileSystemDirectoryHandle,
  { info, files }: RunRecord,
  name: string,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  if (files[name] === undefined) return undefined;
  const bytes = new Uint8Array((await (await readFile(folder, name))?.arrayBuffer()) ?? []);
  if ((await sha256(bytes)) !== files[name]) throw damaged(info.name, name);
  return bytes;
}

/** An adapter's two files, `<name>_config.json` and `<name>_model.safetensors`, where run.json speaks of them. */
export async function readAdapter(folder: FileSystemDirectoryHandle, record: RunRecord, name: string): Promise<AdapterFiles | undefined> {
  const config = await readWhole(folder, record, `${name}_config.json`);
  const weights = await readWhole(folder, record, `${name}_model.safetensors`);
  return config && weights && { config, weights };
}

export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** JSON keeps the order of keys, so that what is read is written again as it was. */
function digestOf(record: RunRecord): Promise<string> {
  return sha256(new TextEncoder().encode(JSON.stringify(record)));
}

export function damaged(run: string, file: string): WebLoraError {
  const message = `The run ${run} is damaged in this browser's storage: ${file} is not as it was written. What else is whole of it can be downloaded.`;
  return new WebLoraError({ code: 'bad_file', file, message });
}

/** A line of metrics.jsonl. */
export function toLine(metric: object): string {
  return `${JSON.stringify({ ...metric, check: checkOf(JSON.stringify(metric)) })}\n`;
}

/** What a line says; undefined for one that is torn or damaged. */
export function fromLine<Metric>(line: string): Metric | undefined {
  try {
    const { check, ...metric } = JSON.parse(line) as { check: number };
    return check === checkOf(JSON.stringify(metric)) ? (metric as Metric) : undefined;
  } catch {
    return undefined;
  }
}

/** FNV-1a over UTF-16, which any change of one character changes. */
function checkOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return hash >>> 0;
}
