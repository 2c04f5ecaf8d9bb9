/** One engine, and what it was given: of model, examples and adapter a run is made, and found again when it goes on. */

import { readable, type DataFile } from './data-files.js';
import { WebLoraError } from './errors.js';
import type { CommandArguments, LoadSettings, PostedSource } from './protocol.js';
import { RunWriter } from './runs/writer.js';
import { withFiles } from './sources.js';
import { train, type Listener } from './training.js';
import type {
  AdapterFiles,
  AdapterInfo,
  AdapterOptions,
  DataSettings,
  DatasetReport,
  HubSource,
  ModelInfo,
  RunConfig,
  TrainOptions,
  TrainResult,
} from './types.js';
import type { WasmEngine } from './wasm.js';

/** The commands that change what a run is made of. All others are the engine's alone. */
export class Session {
  readonly #engine: WasmEngine;
  #model: RunConfig['model'] | undefined;
  #hasChatTemplate = false;
  #data: { files: readonly DataFile[]; evalFiles: readonly DataFile[]; options: DataSettings } | undefined;
  /** Of the Hub, which commit the model's source was, and the source as it was named. */
  #commit: { of: string; commit: string } | undefined;
  /** What the tab asks of a training under way. */
  readonly #asked = { save: false };
  /** Of the fresh adapter in use; undefined where it came from elsewhere. */
  #adapter: AdapterOptions | undefined;

  constructor(engine: WasmEngine) {
    this.#engine = engine;
  }

  async loadModel(source: PostedSource, options: LoadSettings, { signal, onProgress }: Listener): Promise<ModelInfo> {
    this.#model = undefined;
    this.#data = undefined;
    this.#adapter = undefined;
    let commit: string | undefined;
    const onCommit = (found: string) => (commit = found);
    const info = await withFiles(source, { signal, onProgress, onCommit }, (files) =>
      this.#engine.loadModel(files, options, onProgress),
    );
    const { name, modelType, parameters, dtype, hasChatTemplate } = info;
    const model = { name, modelType, parameters, dtype, options };
    this.#model = 'files' in source ? model : { ...model, source: kept(source, commit) };
    this.#hasChatTemplate = hasChatTemplate;
    this.#commit = commit === undefined ? undefined : { of: nameOf(source), commit };
    return info;
  }

  /** A source with its commit, where it is the model's: of what is known nobody has to be asked again. */
  known(source: PostedSource): PostedSource {
    if (!('hub' in source) || this.#commit?.of !== nameOf(source)) return source;
    return { hub: { ...source.hub, revision: this.#commit.commit } };
  }

  async loadDataset(
    files: readonly DataFile[],
    evalFiles: readonly DataFile[],
    options: DataSettings,
  ): Promise<DatasetReport> {
    const { format } = options;
    const report = this.#engine.loadDataset(await readable(files, format), await readable(evalFiles, format), options);
    this.#data = { files, evalFiles, options };
    return report;
  }

  clearDataset(): void {
    this.#data = undefined;
    this.#engine.clearDataset();
  }

  async newAdapter(options: AdapterOptions): Promise<AdapterInfo> {
    const info = await this.#engine.newAdapter(options);
    this.#adapter = options;
    return info;
  }

  loadAdapter({ config, weights }: AdapterFiles): AdapterInfo {
    const info = this.#engine.loadAdapter(config, weights);
    this.#adapter = undefined;
    return info;
  }

  async useAdapter(name: string | undefined): Promise<AdapterInfo | undefined> {
    return this.#switching(() => this.#engine.useAdapter(name));
  }

  /** One that is in use leaves its place to that without a name. */
  async removeAdapter(name: string): Promise<undefined> {
    return this.#switching(() => this.#engine.removeAdapter(name));
  }

  /** Trains, as a run that is kept where it has a name. */
  async train({ options, run, resume }: CommandArguments<'train'>, listener: Listener): Promise<TrainResult> {
    const writer = run === undefined ? undefined : await this.#createRun(run, options);
    if (writer) {
      // An adapter that was there before is where the run starts from.
      if (!this.#adapter && this.#engine.adapterInfo()) writer.startFrom(await this.#engine.saveAdapter());
      listener.emit({ type: 'run', run: writer.info.id, shelf: this.#engine.shelf() });
    }
    try {
      return await train(this.#engine, options, listener, { state: resume, writer, asked: this.#asked }, this.#hasChatTemplate);
    } finally {
      writer?.close();
    }
  }

  /** Goes on with a run that is kept: with its model, which is loaded unless it is there, its examples and its adapter. */
  async resumeRun({ run, shelf }: CommandArguments<'resumeRun'>, listener: Listener): Promise<TrainResult> {
    const { writer, state, data } = await RunWriter.open(run);
    try {
      const { config } = writer.info;
      await this.#ensureModel(config.model, listener);
      if (shelf) this.#engine.restoreShelf(shelf);
      const trained = data.length - (config.data.evalFiles ?? 0);
      await this.loadDataset(data.slice(0, trained), data.slice(trained), config.data.options);
      // What the factors are comes with the state; here it matters which there are.
      const adapter = await writer.startingAdapter();
      if (adapter) this.loadAdapter(adapter);
      else await this.newAdapter(config.adapter ?? {});
      listener.emit({ type: 'run', run, shelf: this.#engine.shelf() });
      return await train(this.#engine, config.training, listener, { state, writer, asked: this.#asked }, this.#hasChatTemplate);
    } finally {
      writer.close();
    }
  }

  /** A run under way is written after the step that it is at. */
  saveSoon(): void {
    this.#asked.save = true;
  }

  async #createRun(name: string, training: TrainOptions): Promise<RunWriter> {
    if (!this.#model || !this.#data) {
      throw new WebLoraError({ code: 'not_ready', message: 'Load a model and give examples first.' });
    }
    const { evalFiles, options } = this.#data;
    const files = [...this.#data.files, ...evalFiles];
    const data = { files: files.map((file) => file.name), evalFiles: evalFiles.length, options };
    const config: RunConfig = { model: this.#model, data, training };
    return RunWriter.create(name, this.#adapter ? { ...config, adapter: this.#adapter } : config, files);
  }

  async #ensureModel(wanted: RunConfig['model'], listener: Listener): Promise<void> {
    const isThere = () =>
      (['name', 'modelType', 'parameters', 'dtype'] as const).every((key) => this.#model?.[key] === wanted[key]);
    if (isThere()) return;
    const { source, options } = wanted;
    if (!source) {
      const message = `This run is of ${wanted.name}, from files of this device: choose them again, then go on.`;
      throw new WebLoraError({ code: 'not_ready', message });
    }
    await this.loadModel(typeof source === 'string' ? { url: source } : { hub: source }, options, listener);
    if (isThere()) return;
    const message = `${wanted.name} is no longer the model that the run was of.`;
    throw new WebLoraError({ code: 'bad_file', file: wanted.name, message });
  }

  /** An adapter that was put aside comes back as its files have it, and is no longer the fresh one that was asked for. */
  async #switching<Result>(work: () => Promise<Result>): Promise<Result> {
    const inUse = () => this.#engine.listAdapters().find((adapter) => adapter.inUse)?.name;
    const before = inUse();
    const result = await work();
    if (inUse() !== before) this.#adapter = undefined;
    return result;
  }
}

/** A source as it may be written down: without the token, and with the commit, as a branch may be another tomorrow. */
function kept(source: Exclude<PostedSource, { files: File[] }>, commit: string | undefined): string | HubSource {
  if ('url' in source) return source.url;
  const { token: _, ...hub } = source.hub;
  return { ...hub, ...(commit ? { revision: commit } : {}) };
}

function nameOf(source: PostedSource): string {
  return 'files' in source ? '' : JSON.stringify(kept(source, undefined));
}
