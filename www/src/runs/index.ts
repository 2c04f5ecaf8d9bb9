/** Runs kept in the tab's storage: to look at, compare, rename, take out and delete. Training and resuming are the engine's. */

import { zipSync } from 'fflate';
import { WebLoraError } from '../errors.js';
import { platform } from '../platform.js';
import type { AdapterFiles, EvalStep, RunInfo, RunMetrics, Sample, TrainStep } from '../types.js';
import { inUse, lockOf, readAdapter, readFile, readJson, runFolder, runsFolder, writeFile } from './folder.js';
import type { Metric } from './writer.js';

/** The runs kept in this browser. */
export const runs = {
  /** All of them, the newest first. */
  async list(): Promise<RunInfo[]> {
    const found: RunInfo[] = [];
    for await (const folder of (await runsFolder()).values()) {
      const info = folder.kind === 'directory' && (await readJson<RunInfo>(folder as FileSystemDirectoryHandle, 'run.json'));
      if (info) found.push(await withLock(info));
    }
    return found.sort((a, b) => b.created - a.created);
  },

  /** What was measured. A step that was taken twice, as a crash came between, is there once. */
  async metrics(id: string): Promise<RunMetrics> {
    const text = (await (await readFile(await runFolder(id), 'metrics.jsonl'))?.text()) ?? '';
    const steps = new Map<number, TrainStep>();
    const evaluations = new Map<number, EvalStep>();
    const samples = new Map<string, Sample>();
    for (const line of text.split('\n')) {
      const metric = parse(line);
      if (metric?.type === 'step') steps.set(metric.step, metric);
      if (metric?.type === 'evaluation') evaluations.set(metric.step, metric);
      if (metric?.type === 'sample') samples.set(`${metric.step} ${metric.prompt}`, metric);
    }
    return { steps: inOrder(steps), evaluations: inOrder(evaluations), samples: inOrder(samples) };
  },

  /** Its files of examples. */
  async data(id: string): Promise<File[]> {
    const folder = await runFolder(id);
    const names = (await readJson<RunInfo>(folder, 'run.json'))?.config.data.files ?? [];
    const files = await Promise.all(names.map(async (name, at) => {
      const file = await readFile(folder, `data-${at}`);
      return file && new File([file], name);
    }));
    return files.filter((file) => file !== undefined);
  },

  /** The adapter that came of it; undefined where it has not ended. */
  async adapter(id: string): Promise<AdapterFiles | undefined> {
    return readAdapter(await runFolder(id), 'adapter');
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
    const folder = await runFolder(id);
    await platform().locks.request(lockOf(id), { ifAvailable: true }, async (lock) => {
      const info = await readJson<RunInfo>(folder, 'run.json');
      if (!lock) throw inUse(info?.name ?? id);
      if (info) await writeFile(folder, 'run.json', JSON.stringify({ ...info, name: name.trim() }));
    });
  },

  /** Deletes it. Rejects with `in_use` while any tab is training it. */
  async delete(id: string): Promise<void> {
    const folder = await runsFolder();
    await platform().locks.request(lockOf(id), { ifAvailable: true }, async (lock) => {
      if (!lock) throw inUse(id);
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

function parse(line: string): Metric | undefined {
  try {
    return JSON.parse(line) as Metric;
  } catch {
    // The last line of a tab that died.
    return undefined;
  }
}
