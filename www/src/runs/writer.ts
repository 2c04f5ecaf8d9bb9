/** A run as it is written while it trains. Used by the worker alone, which has the handles that write in place. */

import type { DataFile } from '../data-files.js';
import { WebLoraError } from '../errors.js';
import { platform } from '../platform.js';
import type { AdapterFiles, EvalStep, RunConfig, RunInfo, RunStatus, Sample, TrainStep } from '../types.js';
import { readCheckpoint, removeCheckpoints, writeCheckpoint } from './checkpoint.js';
import { inUse, lockOf, openFile, runFolder, runsFolder, writeAll, writeFile } from './folder.js';
import { damaged, readRecord, readWhole, sha256, toLine, writeRecord, readAdapter, type RunRecord } from './record.js';

/** A line of metrics.jsonl. */
export type Metric = ({ type: 'step' } & TrainStep) | ({ type: 'evaluation' } & EvalStep) | ({ type: 'sample' } & Sample);

/**
 * One run, held against other tabs until it is closed. What could not be written, as there was no room, is kept in memory
 * and tried again with the next checkpoint.
 */
export class RunWriter {
  #folder: FileSystemDirectoryHandle | undefined;
  readonly #files: RunRecord['files'];
  readonly #release: () => void;
  #info: RunInfo;
  #generation: number;
  #lines: string[] = [];
  /** Files that are still to be written. */
  readonly #pending = new Map<string, Uint8Array>();

  private constructor(folder: FileSystemDirectoryHandle | undefined, { info, files, checkpoint }: RunRecord, release: () => void) {
    this.#folder = folder;
    this.#files = files;
    this.#info = info;
    this.#generation = checkpoint;
    this.#release = release;
  }

  /** A new run of this name. */
  static async create(name: string, config: RunConfig, data: readonly DataFile[]): Promise<RunWriter> {
    const created = Date.now();
    const id = `${created.toString(36)}-${crypto.randomUUID().slice(0, 8)}`;
    const release = await lock(id, name);
    const info: RunInfo = { id, name, created, updated: created, status: 'running', step: 0, steps: 0, config };
    const writer = new RunWriter(undefined, { info, files: {}, checkpoint: 0 }, release);
    for (const [at, { bytes }] of data.entries()) writer.#pending.set(`data-${at}`, bytes);
    return writer;
  }

  /** A run that was kept, with the newest state of it and its examples. Rejects with `bad_file` where it is damaged. */
  static async open(id: string): Promise<{ writer: RunWriter; state: Uint8Array<ArrayBuffer> | undefined; data: DataFile[] }> {
    const folder = await runFolder(id);
    const record = await readRecord(folder);
    if (!record) throw damaged(id, 'run.json');
    const { info, files } = record;
    if (info.status === 'done') throw new WebLoraError({ code: 'not_ready', message: 'This run is done.' });
    const release = await lock(id, info.name);
    try {
      const data: DataFile[] = [];
      for (const [at, name] of info.config.data.files.entries()) {
        const bytes = await readWhole(folder, record, `data-${at}`);
        if (!bytes) throw damaged(info.name, `data-${at}`);
        data.push({ name, bytes });
      }
      const checkpoint = await readCheckpoint(folder);
      // To begin at the beginning as if nothing had been would be to forget.
      if (!checkpoint && record.checkpoint > 0) throw damaged(info.name, 'its last two checkpoints');
      // What came of it before is not what will.
      const { 'adapter_config.json': _, 'adapter_model.safetensors': __, ...kept } = files;
      const generation = checkpoint?.generation ?? 0;
      const running: RunInfo = { ...info, status: 'running' };
      const writer = new RunWriter(folder, { info: running, files: kept, checkpoint: generation }, release);
      return { writer, state: checkpoint?.state, data };
    } catch (error) {
      release();
      throw error;
    }
  }

  get info(): RunInfo {
    return this.#info;
  }

  /** Keeps the adapter that a new run starts from, where that is not a fresh one. */
  startFrom({ config, weights }: AdapterFiles): void {
    this.#pending.set('start_config.json', config);
    this.#pending.set('start_model.safetensors', weights);
  }

  /** What {@link startFrom} kept. */
  async startingAdapter(): Promise<AdapterFiles | undefined> {
    if (!this.#folder) return undefined;
    return readAdapter(this.#folder, { info: this.#info, files: this.#files, checkpoint: this.#generation }, 'start');
  }

  /** Writes what a new run is made of: whatever becomes of the GPU from here on, the run can be taken up. */
  async begin(): Promise<void> {
    await checkRoom(this.#waiting);
    await this.#writeRecord(await this.#prepare());
  }

  /** Keeps a figure until the next {@link save}. */
  note(metric: Metric): void {
    this.#lines.push(toLine(metric));
    if (metric.type === 'step') this.#info = { ...this.#info, step: metric.step, steps: metric.steps, loss: metric.loss };
    if (metric.type === 'evaluation' && metric.best) this.#info = { ...this.#info, bestLoss: metric.loss };
  }

  /** Writes the figures so far and the state that goes with them. */
  async save(state: Uint8Array<ArrayBuffer>): Promise<void> {
    await checkRoom(state.length * (this.#generation < 2 ? 2 : 1) + this.#waiting);
    const folder = await this.#prepare();
    await this.#append(folder);
    // Only with the figures on disk: a state whose steps have no figures would leave a gap in the curve.
    await writeCheckpoint(folder, { generation: this.#generation + 1, state });
    this.#generation += 1;
    await this.#writeRecord(folder);
  }

  /** Writes how the run ended, and what came of it. */
  async end(status: RunStatus, files: AdapterFiles | undefined): Promise<void> {
    const folder = await this.#prepare();
    await this.#append(folder);
    if (files) {
      await this.#keep(folder, 'adapter_config.json', files.config);
      await this.#keep(folder, 'adapter_model.safetensors', files.weights);
    }
    this.#info = { ...this.#info, status };
    await this.#writeRecord(folder);
    // Only now: a run without them that says it is under way could not go on.
    if (status === 'done') await removeCheckpoints(folder);
  }

  /** Lets other tabs have it. */
  close(): void {
    this.#release();
  }

  /** Bytes that a new run takes beside its checkpoints. */
  get #waiting(): number {
    return [...this.#pending.values()].reduce((sum, { length }) => sum + length, 0);
  }

  /** The folder, with all in it that does not change. */
  async #prepare(): Promise<FileSystemDirectoryHandle> {
    this.#folder ??= await (await runsFolder()).getDirectoryHandle(this.#info.id, { create: true });
    for (const [name, bytes] of this.#pending) {
      await this.#keep(this.#folder, name, bytes);
      this.#pending.delete(name);
    }
    return this.#folder;
  }

  async #append(folder: FileSystemDirectoryHandle): Promise<void> {
    if (this.#lines.length === 0) return;
    // Of a tab that died, half a line may be the last: it is not to spoil the first of these.
    const bytes = new TextEncoder().encode(`\n${this.#lines.join('')}`);
    const file = await openFile(folder, 'metrics.jsonl');
    const before = file.getSize();
    try {
      writeAll(file, bytes, before);
      file.flush();
    } catch (error) {
      // They are written again.
      file.truncate(before);
      throw error;
    } finally {
      file.close();
    }
    this.#lines = [];
  }

  async #keep(folder: FileSystemDirectoryHandle, name: string, bytes: Uint8Array): Promise<void> {
    // An adapter's bytes may lie in the engine's memory, which grows.
    const copy = bytes.slice();
    await writeFile(folder, name, copy);
    this.#files[name] = await sha256(copy);
  }

  async #writeRecord(folder: FileSystemDirectoryHandle): Promise<void> {
    this.#info = { ...this.#info, updated: Date.now() };
    await writeRecord(folder, { info: this.#info, files: this.#files, checkpoint: this.#generation });
  }
}

/** Refuses what there is no room for before a byte of it is written. */
async function checkRoom(needed: number): Promise<void> {
  const { quota, usage = 0 } = await platform().storage.estimate().catch(() => ({}) as StorageEstimate);
  const missing = needed - (quota === undefined ? Infinity : quota - usage);
  if (missing <= 0) return;
  const message = `the browser’s storage for this page has no room, ${Math.ceil(missing / 1e6)} MB are missing`;
  throw new WebLoraError({ code: 'no_space', message, neededBytes: missing });
}

/** Takes a run for this tab; the function gives it back. */
async function lock(id: string, name: string): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const hold = (lock: Lock | null) =>
      new Promise<void>((release) => {
        if (lock) resolve(release);
        else {
          reject(inUse(name));
          release();
        }
      });
    platform().locks.request(lockOf(id), { ifAvailable: true }, hold).catch(reject);
  });
}
