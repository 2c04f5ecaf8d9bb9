/** A run as it is written while it trains. Used by the worker alone, which has the handles that write in place. */

import type { DataFile } from '../data-files.js';
import { WebLoraError } from '../errors.js';
import { platform } from '../platform.js';
import type { AdapterFiles, EvalStep, RunConfig, RunInfo, RunStatus, Sample, TrainStep } from '../types.js';
import { readCheckpoint, removeCheckpoints, writeCheckpoint } from './checkpoint.js';
import { inUse, lockOf, openFile, readAdapter, readFile, readJson, runFolder, runsFolder, writeFile } from './folder.js';

/** A line of metrics.jsonl. */
export type Metric = ({ type: 'step' } & TrainStep) | ({ type: 'evaluation' } & EvalStep) | ({ type: 'sample' } & Sample);

/** One run, held against other tabs until it is closed. */
export class RunWriter {
  readonly #folder: FileSystemDirectoryHandle;
  readonly #release: () => void;
  #info: RunInfo;
  #generation: number;
  #lines: string[] = [];

  private constructor(folder: FileSystemDirectoryHandle, info: RunInfo, generation: number, release: () => void) {
    this.#folder = folder;
    this.#info = info;
    this.#generation = generation;
    this.#release = release;
  }

  /** A new run of this name. */
  static async create(name: string, config: RunConfig, data: readonly DataFile[]): Promise<RunWriter> {
    const created = Date.now();
    const id = `${created.toString(36)}-${crypto.randomUUID().slice(0, 8)}`;
    const release = await lock(id, name);
    try {
      const folder = await (await runsFolder()).getDirectoryHandle(id, { create: true });
      for (const [at, { bytes }] of data.entries()) await writeFile(folder, `data-${at}`, bytes);
      const info: RunInfo = { id, name, created, updated: created, status: 'running', step: 0, steps: 0, config };
      const writer = new RunWriter(folder, info, 0, release);
      await writer.#writeInfo();
      return writer;
    } catch (error) {
      release();
      throw error;
    }
  }

  /** A run that was kept, with the newest state of it and its examples. */
  static async open(id: string): Promise<{ writer: RunWriter; state: Uint8Array<ArrayBuffer> | undefined; data: DataFile[] }> {
    const folder = await runFolder(id);
    const info = await readJson<RunInfo>(folder, 'run.json');
    if (!info) throw notWhole(id);
    const release = await lock(id, info.name);
    try {
      const data: DataFile[] = [];
      for (const [at, name] of info.config.data.files.entries()) {
        const file = await readFile(folder, `data-${at}`);
        if (!file) throw notWhole(info.name);
        data.push({ name, bytes: new Uint8Array(await file.arrayBuffer()) });
      }
      const checkpoint = await readCheckpoint(folder);
      const writer = new RunWriter(folder, info, checkpoint?.generation ?? 0, release);
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
    await writeFile(this.#folder, 'start_config.json', config);
    await writeFile(this.#folder, 'start_model.safetensors', weights);
  }

  /** What {@link startFrom} kept. */
  async startingAdapter(): Promise<AdapterFiles | undefined> {
    return readAdapter(this.#folder, 'start');
  }

  /** Keeps a figure until the next {@link save}. */
  note(metric: Metric): void {
    this.#lines.push(`${JSON.stringify(metric)}\n`);
    if (metric.type === 'step') this.#info = { ...this.#info, step: metric.step, steps: metric.steps, loss: metric.loss };
    if (metric.type === 'evaluation' && metric.best) this.#info = { ...this.#info, bestLoss: metric.loss };
  }

  /** Writes the figures so far and the state that goes with them. */
  async save(state: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.#append();
    // Only with the figures on disk: a state whose steps have no figures would leave a gap in the curve.
    await writeCheckpoint(this.#folder, { generation: this.#generation + 1, state });
    this.#generation += 1;
    await this.#writeInfo();
  }

  /** Writes how the run ended, and what came of it. */
  async end(status: RunStatus, files: AdapterFiles | undefined): Promise<void> {
    await this.#append();
    if (files) {
      await writeFile(this.#folder, 'adapter_config.json', files.config);
      await writeFile(this.#folder, 'adapter_model.safetensors', files.weights);
    }
    this.#info = { ...this.#info, status };
    await this.#writeInfo();
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

  async #writeInfo(): Promise<void> {
    this.#info = { ...this.#info, updated: Date.now() };
    await writeFile(this.#folder, 'run.json', JSON.stringify(this.#info));
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

function notWhole(name: string) {
  return new WebLoraError({ code: 'bad_file', message: `The run ${name} is not kept whole in this browser; it cannot go on.` });
}
