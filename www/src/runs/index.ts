/** Runs kept in the tab's storage: to look at, compare, rename, take out and delete. Training and resuming are the engine's. */

import { zipSync } from 'fflate';
import { WebLoraError } from '../errors.js';
import { platform } from '../platform.js';
import type { AdapterFiles, EvalStep, RunInfo, RunMetrics, Sample, TrainStep } from '../types.js';
import { inUse, lockOf, readFile, runFolder, runsFolder } from './folder.js';
import { damaged, fromLine, readAdapter, readRecord, readWhole, writeRecord, type RunRecord } from './record.js';
import type { Metric } from './writer.js';

/** The runs kept in this browser. */
export const runs = {
  /** All of them, the newest first, but for those that `damaged` names. */
  async list(): Promise<RunInfo[]> {
    const found: RunInfo[] = [];
    for (const { record } of await all()) if (record) found.push(await withLock(record.info));
    return found.sort((a, b) => b.created - a.created);
  },

  /** The ids of those of which nobody knows any more what they are. They can be exported and deleted. */
  async damaged(): Promise<string[]> {
    const { held = [] } = await platform().locks.query();
    // One that is just being made is not whole yet.
    const isHeld = (id: string) => held.some(({ name }) => name === lockOf(id));
    return (await all()).filter(({ id, record }) => !record && !isHeld(id)).map(({ id }) => id);
  },

  /** What was measured. A step that was taken twice, as a crash came between, is there once. */
  async metrics(id: string): Promise<RunMetrics> {
    const text = (await (await readFile(await runFolder(id), 'metrics.jsonl'))?.text()) ?? '';
    const steps = new Map<number, TrainStep>();
    const evaluations = new Map<number, EvalStep>();
    const samples = new Map<string, Sample>();
    for (const line of text.split('\n')) {
      const metric = fromLine<Metric>(line);
      if (metric?.type === 'step') steps.set(metric.step, metric);
      if (metric?.type === 'evaluation') evaluations.set(metric.step, metric);
      if (metric?.type === 'sample') samples.set(`${metric.step} ${metric.prompt}`, metric);
    }
    return { steps: inOrder(steps), evaluations: inOrder(evaluations), samples: inOrder(samples) };
  },

  /** Its files of examples. Rejects with `bad_file` where they are not as they were. */
  async data(id: string): Promise<File[]> {
    const { folder, record } = await open(id);
    const files: File[] = [];
    for (const [at, name] of record.info.config.data.files.entries()) {
      const bytes = await readWhole(folder, record, `data-${at}`);
      if (bytes) files.push(new File([bytes], name));
    }
    return files;
  },

  /** The adapter that came of it; undefined where it has not ended. Rejects with `bad_file` where it is damaged. */
  async adapter(id: string): Promise<AdapterFiles | undefined> {
    const { folder, record } = await open(id);
    return readAdapter(folder, record, 'adapter');
  },

  /** All of it as a zip, without the checkpoints. */
  async export(id: string): Promise<Blob> {
    const folder = await runFolder(id);
    const files: Record<string, Uint8Array> = {};
    for await (const entry of folder.values()) {
      if (entry.kind !== 'file' || entry.name.startsWith('checkpoint-')) continue;
      files[entry.name] = new Uint8Array(await (await (entry as FileSystemFileHandle).getFile()).arrayBuffer());
    }
    return new Blob([zipSync(files, { level: 1 })], { type: 'application/zip' });
  },

  /** Gives it another name. Rejects with `in_use` while any tab is training it, with `bad_setting` where the name is empty. */
  async rename(id: string, name: string): Promise<void> {
    if (name.trim() === '') {
      const message = 'name is empty; allowed is a name.';
      throw new WebLoraError({ code: 'bad_setting', name: 'name', value: 'empty', allowed: 'a name', message });
    }
    const found = await open(id);
    await platform().locks.request(lockOf(id), { ifAvailable: true }, async (lock) => {
      if (!lock) throw inUse(found.record.info.name);
      const { folder, record } = await open(id);
      await writeRecord(folder, { ...record, info: { ...record.info, name: name.trim() } });
    });
  },

  /** Deletes it. Rejects with `in_use` while any tab is training it. */
  async delete(id: string): Promise<void> {
    const folder = await runsFolder();
    await platform().locks.request(lockOf(id), { ifAvailable: true }, async (lock) => {
      if (!lock) throw inUse((await readRecord(await runFolder(id)))?.info.name ?? id);
      await folder.removeEntry(id, { recursive: true });
    });
  },
};

/** A run that says that it is under way, while nobody holds it, was cut off. */
async function withLock(info: RunInfo): Promise<RunInfo> {
  if (info.status !== 'running') return info;
  const { held = [] } = await platform().locks.query();
  return held.some(({ name }) => name === lockOf(info.id)) ? info : { ...info, status: 'interrupted' };
}

function inOrder<Figure extends { step: number }>(figures: Map<unknown, Figure>): Figure[] {
  return [...figures.values()].sort((a, b) => a.step - b.step);
}

async function all(): Promise<{ id: string; record: RunRecord | undefined }[]> {
  const found: { id: string; record: RunRecord | undefined }[] = [];
  for await (const entry of (await runsFolder()).values()) {
    if (entry.kind !== 'directory') continue;
    found.push({ id: entry.name, record: await readRecord(entry as FileSystemDirectoryHandle) });
  }
  return found;
}

async function open(id: string): Promise<{ folder: FileSystemDirectoryHandle; record: RunRecord }> {
  const folder = await runFolder(id);
  const record = await readRecord(folder);
  if (!record) throw damaged(id, 'run.json');
  return { folder, record };
}
