/** A run as it is written while it trains. Used by the worker alone, which has the handles that write in place. */

import type { DataFile } from '../data-files.js';
import { WebLoraError } from '../errors.js';
import { platform } from '../platform.js';
import type { AdapterFiles, EvalStep, RunConfig, RunInfo, RunStatus, Sample, TrainStep } from '../types.js';
import { readCheckpoint, removeCheckpoints, writeCheckpoint } from './checkpoint.js';
import { inUse, lockOf, openFile, runFolder, runsFolder, writeFile } from './folder.js';
import { damaged, readRecord, readWhole, sha256, toLine, writeRecord, readAdapter, type RunRecord } from './record.js';

/** A line of metrics.jsonl. */
export type Metric = ({ type: 'step' } & TrainStep) | ({ type: 'evaluation' } & EvalStep) | ({ type: 'sample' } & Sample);

/** One run, held against other tabs until it is closed. */
export class RunWriter {
  readonly #folder: FileSystemDirectoryHandle;
  readonly #release: () => void;
  readonly #files: RunRecord['files'];
  #info: RunInfo;
  #generation: number;
  #lines: string[] = [];

  private constructor(folder: FileSystemDirectoryHandle, { info, files, checkpoint }: RunRecord, release: () => void) {
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
    try {
      const folder = await (await runsFolder()).getDirectoryHandle(id, { create: true });
      const info: RunInfo = { id, name, created, updated: created, status: 'running', step: 0, steps: 0, config };
      const writer = new RunWriter(folder, { info, files: {}, checkpoint: 0 }, release);
      for (const [at, { bytes }] of data.entries()) await writer.#keep(`data-${at}`, bytes);
      await writer.#writeRecord();
      return writer;
    } catch (error) {
      release();
      throw error;
    }
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

  /** Keeps the adapter that the run starts from, where that is not a fresh one. */
  async startFrom({ config, weights }: AdapterFiles): Promise<void> {
    await this.#keep('start_config.json', config);
    await this.#keep('start_model.safetensors', weights);
    await this.#writeRecord();
  }

  /** What {@link startFrom} kept. */
  async startingAdapter(): Promise<AdapterFiles | undefined> {
    return readAdapter(this.#folder, { info: this.#info, files: this.#files, checkpoint: this.#generation }, 'start');
  }

  /** Keeps a figure until the next {@link save}. */
  note(metric: Metric): void {
    this.#lines.push(toLine(metric));
    if (metric.type === 'step') this.#info = { ...this.#info, step: metric.step, steps: metric.steps, loss: metric.loss };
    if (metric.type === 'evaluation' && metric.best) this.#info = { ...this.#info, bestLoss: metric.loss };
  }

  /** Writes the figures so far and the state that goes with them. */
  async save(state: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.#append();
    // Only with the figures on disk: a state whose steps have no figures would leave a gap in the curve.
    await writeCheckpoint(this.#folder, { generation: this.#generation + 1, state });
    this.#generation += 1;
    await this.#writeRecord();
  }

  /** Writes how the run ended, and what came of it. */
  async end(status: RunStatus, files: AdapterFiles | undefined): Promise<void> {
    await this.#append();
    if (files) {
      await this.#keep('adapter_config.json', files.config);
      await this.#keep('adapter_model.safetensors', files.weights);
    }
    this.#info = { ...this.#info, status };
    await this.#writeRecord();
    // Only now: a run without them that says it is under way could not go on.
    if (status === 'done') await removeCheckpoints(this.#folder);
  }

  /** Lets other tabs have it. */
  close(): void {
    this.#release();
  }

  async #append(): Promise<void> {
    if (this.#lines.length === 0) return;
    const bytes = new TextEncoder().encode(this.#lines.join(''));
    const file = await openFile(this.#folder, 'metrics.jsonl');
    try {
      file.write(bytes, { at: file.getSize() });
      file.flush();
    } finally {
      file.close();
    }
    this.#lines = [];
  }

  async #keep(name: string, bytes: Uint8Array): Promise<void> {
    // An adapter's bytes may lie in the engine's memory, which grows.
    const copy = bytes.slice();
    await writeFile(this.#folder, name, copy);
    this.#files[name] = await sha256(copy);
  }

  async #writeRecord(): Promise<void> {
    this.#info = { ...this.#info, updated: Date.now() };
    await writeRecord(this.#folder, { info: this.#info, files: this.#files, checkpoint: this.#generation });
  }
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
